"""The ledger: the memory of every campaign, in SQL.

Imports SQLAlchemy and Alembic; no pymatgen, no torch.
"""

from matterloop.loop.ledger.columns import Base, utc_now
from matterloop.loop.ledger.drive import DriveReport, DriverOptions
from matterloop.loop.ledger.driver import JobDriver, Store
from matterloop.loop.ledger.engine import open_engine, reading, writing
from matterloop.loop.ledger.jobs import abort, plan_job, resolve, submission_key
from matterloop.loop.ledger.models import (
    Campaign,
    CandidateRow,
    Cycle,
    DecisionRow,
    EventRow,
    JobRow,
    MeasurementRow,
    ModelVersion,
    RecipeRow,
    ReviewRow,
    SampleRow,
    StructureRow,
    VerdictRow,
)
from matterloop.loop.ledger.schema import current, downgrade, require_current, upgrade
from matterloop.loop.ledger.structures import get_structure, put_structure

__all__ = [
    "Base",
    "Campaign",
    "CandidateRow",
    "Cycle",
    "DecisionRow",
    "DriveReport",
    "DriverOptions",
    "EventRow",
    "JobDriver",
    "JobRow",
    "MeasurementRow",
    "ModelVersion",
    "RecipeRow",
    "ReviewRow",
    "SampleRow",
    "Store",
    "StructureRow",
    "VerdictRow",
    "abort",
    "current",
    "downgrade",
    "get_structure",
    "open_engine",
    "plan_job",
    "put_structure",
    "reading",
    "require_current",
    "resolve",
    "submission_key",
    "upgrade",
    "utc_now",
    "writing",
]
