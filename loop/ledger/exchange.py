"""What crosses between a job in the ledger and its instrument."""

from __future__ import annotations

from matterloop.loop.errors import InstrumentFaultError
from matterloop.loop.experiment import (
    CharacterizationRequest,
    CharacterizationResult,
    SynthesisRequest,
    SynthesisResult,
)
from matterloop.loop.ledger.jobs import Request
from matterloop.loop.ledger.models import JobRow


def request_of(row: JobRow) -> Request:
    """Return what the job asks of its instrument."""
    if row.purpose == "synthesize":
        return SynthesisRequest.model_validate(row.request)
    return CharacterizationRequest.model_validate(row.request)


def why_no_result(row: JobRow, result: object) -> InstrumentFaultError | None:
    """Say why this cannot be the result of a job, or None; validation can be bypassed."""
    expected = SynthesisResult if row.purpose == "synthesize" else CharacterizationResult
    if not isinstance(result, expected):
        fault = f"{row.instrument} gave a {type(result).__name__} for a job to {row.purpose}."
        return InstrumentFaultError(fault, expected.__name__, "repair the plugin")
    try:
        expected.model_validate_json(result.model_dump_json())
    except ValueError as error:  # of pydantic: does not validate, or is no JSON
        fault = f"{row.instrument} gave a result that cannot be kept: {error}."
        remedy = "repair the plugin"
        return InstrumentFaultError(fault, "finite numbers and plain JSON values", remedy)
    return None
