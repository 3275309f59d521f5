"""The stages of a cycle.

A stage is a plain function of an open campaign and a cycle. It looks at what the ledger already
holds and does only what is missing, so that it can be called again at any time, after any crash.
Flows, tests and the command line call the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from matterloop.loop.open_campaign import OpenCampaign, StageReport
from matterloop.loop.stages.approve import approve
from matterloop.loop.stages.experiment import characterize, synthesize
from matterloop.loop.stages.generate import generate
from matterloop.loop.stages.learn import learn
from matterloop.loop.stages.plan import plan
from matterloop.loop.stages.relax import relax
from matterloop.loop.stages.screen import screen
from matterloop.loop.stages.select import select

Stage = Callable[[OpenCampaign, int], StageReport]

STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        "generate": generate,
        "screen": screen,
        "relax": relax,
        "select": select,
        "approve": approve,
        "plan": plan,
        "synthesize": synthesize,
        "characterize": characterize,
        "learn": learn,
    }
)
"""Stage name to function, in the order of a cycle."""

__all__ = ["STAGES", "Stage", "StageReport"]
