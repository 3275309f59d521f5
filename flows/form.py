"""The form from which a campaign is started in the Prefect UI.

Each field is a flow parameter of its own, because the pages show nested ones badly, and says to
the pages that it is a plain text or number, because they show "or nothing" as a choice of types.
A field left empty keeps what the campaign's file or the ledger says.

No ``from __future__ import annotations`` here, see `matterloop.flows.campaign`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, WithJsonSchema
from sqlalchemy import Engine, select

from matterloop.loop.errors import UsageError
from matterloop.loop.examples import example_files
from matterloop.loop.ledger.engine import reading
from matterloop.loop.ledger.models import Campaign
from matterloop.loop.spec import CampaignSpec
from matterloop.loop.spec_file import load_spec

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"
MOST = 1000
"""Upper bound of the counts."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Text = Annotated[str | None, WithJsonSchema({"type": "string"})]
Count = Annotated[
    int | None,
    Field(ge=1, le=MOST),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MOST}),
]
Seed = Annotated[int | None, Field(ge=0), WithJsonSchema({"type": "integer", "minimum": 0})]


def _asked(title: str, description: str, default: Any = None) -> Any:
    """Describe a parameter to the pages; its bounds stand in its type."""
    return Field(default, description=description, json_schema_extra={"title": title})


NAME = _asked("Name", "Of the campaign. One that the ledger knows goes on where it stands.", ...)
CAMPAIGN_FILE = _asked(
    "Campaign file",
    "Name of an example (li-p-s-cl), or path of a YAML file on the server's machine. Left empty:"
    " the campaign of that name in the ledger.",
)
CHEMICAL_SYSTEM = _asked(
    "Chemical system",
    "Elements joined by dashes: Li-P-S-Cl. This and all below may be left empty, which keeps what"
    " the campaign file says.",
)
CYCLES = _asked("Cycles", f"1 to {MOST}.")
EXPERIMENTS = _asked("Experiments", f"The most to be made, control arms included; 1 to {MOST}.")
BATCH_SIZE = _asked("Batch size", f"Candidates chosen per cycle; 1 to {MOST}.")
CANDIDATES_PER_CYCLE = _asked(
    "Candidates per cycle", f"Crystals that the generator proposes; 1 to {MOST}."
)
LEARNER = _asked(
    "Campaign",
    "Name of the campaign whose generator learns. Left empty: every campaign that wants it and has"
    " new measurements.",
)
FORCE = _asked("Force", "Learn also without new measurements.", False)
SEED = _asked("Seed", "Whole number from 0. The same seed gives the same campaign.")


@dataclass(frozen=True)
class Changes:
    """What the form changes in the campaign's file, or in the campaign that the ledger holds."""

    chemical_system: str | None = None
    cycles: int | None = None
    experiments: int | None = None
    batch_size: int | None = None
    candidates_per_cycle: int | None = None
    seed: int | None = None

    def apply(self, value: dict[str, Any]) -> None:
        """Write the changes into a specification in JSON form."""
        if self.chemical_system:
            space = value["search_space"]
            space.update(chemical_system=self.chemical_system, elements=None, formulas=None)
            wanted = self.chemical_system.split("-")
            space["required_elements"] = [e for e in space["required_elements"] if e in wanted]
        for name in ("cycles", "experiments"):
            if getattr(self, name) is not None:
                value["budget"][name] = getattr(self, name)
        if self.candidates_per_cycle is not None:
            value["generator"]["candidates_per_cycle"] = self.candidates_per_cycle
        for name in ("batch_size", "seed"):
            if getattr(self, name) is not None:
                value[name] = getattr(self, name)


def spec_of(engine: Engine, name: str, campaign_file: str | None, changes: Changes) -> CampaignSpec:
    """Return the specification of a file, or else of the ledger, with the form's changes.

    Raises
    ------
    UsageError
        If the form names no file and the ledger does not know the name, or if the changes make
        the campaign impossible.
    SpecError
        If the file is wrong.
    """
    if campaign_file:
        spec = load_spec(example_files().get(campaign_file, Path(campaign_file)))
    else:
        with reading(engine) as session:
            known = session.scalars(select(Campaign.spec).where(Campaign.name == name)).first()
        if known is None:
            raise UsageError(
                f"The ledger holds no campaign {name!r} and the form names no campaign file.",
                f"one of {', '.join(example_files())}, or the path of a YAML file",
                "fill in the field Campaign file",
            )
        spec = CampaignSpec.model_validate(known)
    return changed(spec, name, changes)


def changed(spec: CampaignSpec, name: str, changes: Changes) -> CampaignSpec:
    """Return `spec` under a name and with changes.

    Raises
    ------
    UsageError
        If they make the campaign impossible; it says which field is wrong and why.
    """
    value: dict[str, Any] = spec.model_dump(mode="json")
    value["name"] = name
    changes.apply(value)
    try:
        return CampaignSpec.model_validate(value)
    except ValidationError as error:
        problems = "; ".join(map(_problem, error.errors()))
        raise UsageError(
            f"The form asks for an impossible campaign: {problems}.",
            remedy="correct these fields and run it again",
        ) from None


def _problem(detail: Any) -> str:
    field = ".".join(str(part) for part in detail["loc"]) or "the campaign"
    return f"{field}: {str(detail['msg']).removeprefix('Value error, ')}"
