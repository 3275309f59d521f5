"""The form from which a campaign is started in the Prefect UI.

No ``from __future__ import annotations`` here, see `matterloop.flows.campaign`.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import Engine, select

from matterloop.loop.errors import UsageError
from matterloop.loop.examples import example_files
from matterloop.loop.ledger.engine import reading
from matterloop.loop.ledger.models import Campaign
from matterloop.loop.spec import CampaignSpec
from matterloop.loop.spec_file import load_spec


class CampaignForm(BaseModel):
    """What the form asks for. Fields left empty keep what the campaign file says."""

    name: str = Field(
        title="Name",
        description="Of the campaign. A name that the ledger knows goes on where it stands.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$",
    )
    campaign_file: str | None = Field(
        default=None,
        title="Campaign file",
        description="An example's name (li-p-s-cl) or the path of a YAML file on this machine.",
    )
    chemical_system: str | None = Field(
        default=None, title="Chemical system", description="Elements joined by dashes: Li-P-S-Cl."
    )
    cycles: int | None = Field(default=None, title="Cycles", ge=1, le=1000)
    batch_size: int | None = Field(
        default=None, title="Batch size", description="Experiments per cycle.", ge=1, le=1000
    )
    candidates_per_cycle: int | None = Field(default=None, title="Candidates per cycle", ge=1)
    seed: int | None = Field(default=None, title="Seed", ge=0)


def spec_of(engine: Engine, form: CampaignForm) -> CampaignSpec:
    """Turn a form into a specification: the ledger's or a file's, with the form's changes.

    Raises
    ------
    UsageError
        If the ledger does not know the name and the form names no campaign file.
    SpecError, pydantic.ValidationError
        If the result is not a valid campaign.
    """
    with reading(engine) as session:
        known = session.scalars(select(Campaign.spec).where(Campaign.name == form.name)).first()
    if known is not None:
        spec = CampaignSpec.model_validate(known)
    elif form.campaign_file:
        spec = load_spec(example_files().get(form.campaign_file, Path(form.campaign_file)))
    else:
        raise UsageError(
            f"The ledger holds no campaign {form.name!r} and the form names no campaign file.",
            f"one of {', '.join(example_files())}, or the path of a YAML file",
            "fill in the field Campaign file",
        )
    return _changed(spec, form)


def _changed(spec: CampaignSpec, form: CampaignForm) -> CampaignSpec:
    value: dict[str, Any] = spec.model_dump(mode="json")
    value["name"] = form.name
    if form.chemical_system is not None:
        space = value["search_space"]
        space.update(chemical_system=form.chemical_system, elements=None, formulas=None)
        space["required_elements"] = [
            e for e in space["required_elements"] if e in form.chemical_system.split("-")
        ]
    if form.cycles is not None:
        value["budget"]["cycles"] = form.cycles
    if form.batch_size is not None:
        value["batch_size"] = form.batch_size
    if form.candidates_per_cycle is not None:
        value["generator"]["candidates_per_cycle"] = form.candidates_per_cycle
    if form.seed is not None:
        value["seed"] = form.seed
    return CampaignSpec.model_validate(value)
