"""The composition sampler: how many atoms, of which elements, before any geometry."""

from matterloop.agents.generator.diffusion.composition.constraints import (
    ANYTHING,
    CompositionConstraint,
)
from matterloop.agents.generator.diffusion.composition.element_supply import (
    element_supply,
    supply_bias,
    supply_scores,
)
from matterloop.agents.generator.diffusion.composition.likelihood import log_likelihood
from matterloop.agents.generator.diffusion.composition.moves import Composition
from matterloop.agents.generator.diffusion.composition.network import (
    CompositionNetwork,
    CompositionSettings,
)
from matterloop.agents.generator.diffusion.composition.plausibility import is_plausible
from matterloop.agents.generator.diffusion.composition.sampler import (
    CompositionDraws,
    SamplingOptions,
    draw_compositions,
    sample_compositions,
)
from matterloop.agents.generator.diffusion.composition.training import (
    CompositionExample,
    CompositionProgress,
    CompositionTraining,
    train_composition,
)
from matterloop.agents.generator.diffusion.composition.weights import (
    load_network,
    save_network,
)

__all__ = [
    "ANYTHING",
    "Composition",
    "CompositionConstraint",
    "CompositionDraws",
    "CompositionExample",
    "CompositionNetwork",
    "CompositionProgress",
    "CompositionSettings",
    "CompositionTraining",
    "SamplingOptions",
    "draw_compositions",
    "element_supply",
    "is_plausible",
    "load_network",
    "log_likelihood",
    "sample_compositions",
    "save_network",
    "supply_bias",
    "supply_scores",
    "train_composition",
]
