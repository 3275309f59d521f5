"""Every error that Matterloop raises on purpose.

A message says what came in, what was expected and what the user can do about it. The command line
prints the message alone, without a traceback, and exits with ``exit_code``.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class MatterloopError(Exception):
    """Root of all errors raised on purpose.

    Parameters
    ----------
    came
        What was given or what happened.
    expected
        What would have been right; empty when nothing else could have been given.
    remedy
        What the user can do now; empty when there is nothing to do.
    """

    exit_code = 1

    def __init__(self, came: str, expected: str = "", remedy: str = "") -> None:
        self.came, self.expected, self.remedy = came, expected, remedy
        parts = [came]
        if expected:
            parts.append(f"Expected: {expected}.")
        if remedy:
            parts.append(f"What to do: {remedy}.")
        super().__init__(" ".join(parts))

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders in worker pools; the default rebuilds from the message.
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(
    kind: type[MatterloopError], args: tuple[object, ...], state: dict[str, object]
) -> MatterloopError:
    error = kind.__new__(kind)
    Exception.__init__(error, *args)
    error.__dict__.update(state)
    return error


class UsageError(MatterloopError):
    """The command line or a call got something that it cannot use."""

    exit_code = 2


class SpecError(MatterloopError):
    """A campaign file is wrong; one line per problem: field, value, what is allowed."""

    exit_code = 2

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"{source} is not a valid campaign file:\n{lines}")
        self.source, self.problems = source, tuple(problems)


class PluginNotFoundError(MatterloopError):
    """No plugin of that name is installed in that entry-point group."""

    exit_code = 2

    def __init__(self, group: str, name: str, installed: Sequence[str]) -> None:
        nouns = group.rpartition(".")[2]
        noun = f"{nouns[:-3]}y" if nouns.endswith("ies") else nouns.removesuffix("s")
        super().__init__(
            f"There is no {noun} named {name!r}.",
            f"one of {', '.join(sorted(installed)) or 'none (none is installed)'}",
            f"correct the name, or install the package that registers it under {group!r}",
        )


class PluginBrokenError(MatterloopError):
    """A plugin is registered but cannot be imported or built."""

    def __init__(self, group: str, name: str, reason: str) -> None:
        super().__init__(
            f"The plugin {name!r} of group {group!r} cannot be loaded: {reason}.",
            remedy="repair or uninstall the package that provides it; the other plugins still work",
        )


class PluginFailedError(MatterloopError):
    """A plugin raised an error of its own, or broke what its protocol promises."""

    def __init__(self, group: str, name: str, reason: str) -> None:
        super().__init__(
            f"The plugin {name!r} of group {group!r} failed: {reason}.",
            remedy="repair it and give the same command again; it goes on where it stands",
        )


class LedgerError(MatterloopError):
    """The ledger cannot be reached, read or written."""


class CampaignNotFoundError(LedgerError):
    """No campaign of that name or id in this ledger."""

    exit_code = 2

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(
            f"The ledger holds no campaign {name!r}.",
            f"one of {', '.join(known)}" if known else "a campaign; this ledger holds none yet",
            "start it with `matterloop run FILE.yaml`" if not known else "correct the name",
        )


class FineTuningRefusedError(MatterloopError):
    """A generator will not learn from what it was given; nothing was written.

    No reason to end a campaign: the generator stays as it is, and the refusal is recorded.
    """


class BudgetExhaustedError(MatterloopError):
    """The campaign would spend more than its budget."""

    exit_code = 3

    def __init__(self, what: str, spent: float, asked: float, limit: float) -> None:
        super().__init__(
            f"The campaign's budget of {what} is spent: {spent:g} used, {asked:g} more asked,"
            f" limit {limit:g}.",
            remedy=f"raise budget.{what} in the campaign file and run the same command again;"
            " everything measured so far is kept",
        )


class WaitingForPersonError(MatterloopError):
    """The campaign can go no further without a person; nothing is wrong, nothing is lost."""

    exit_code = 4


class InterruptedByUserError(MatterloopError):
    """Ctrl-C, or another signal to stop. The exit code is what shells have for it: 128 + number."""

    def __init__(self, signal_number: int = 2) -> None:
        super().__init__("Stopped.", remedy="the same command goes on where this one ended")
        self.exit_code = 128 + signal_number


class ConflictError(MatterloopError):
    """The request contradicts what the ledger already holds."""

    exit_code = 2


class FailureKind(StrEnum):
    """Why a job failed; each kind has exactly one consequence.

    ``transient``: tried again with backoff. ``infeasible``: a result, it teaches the feasibility
    model. ``instrument_fault``: that instrument is set aside, others go on. ``policy_violation``:
    refused before submission. ``aborted``: stopped by a person.
    """

    TRANSIENT = "transient"
    INFEASIBLE = "infeasible"
    INSTRUMENT_FAULT = "instrument_fault"
    POLICY_VIOLATION = "policy_violation"
    ABORTED = "aborted"


class JobFailureError(MatterloopError):
    """Base of the failures that an instrument may raise; adapters raise its subclasses."""

    kind: FailureKind


class TransientError(JobFailureError):
    """The instrument was busy, the line was down: worth another attempt."""

    kind = FailureKind.TRANSIENT


class InfeasibleError(JobFailureError):
    """The experiment was done and cannot give the result; a fact about the material."""

    kind = FailureKind.INFEASIBLE


class InstrumentFaultError(JobFailureError):
    """The instrument is broken or out of calibration; nobody should use it until it is repaired."""

    kind = FailureKind.INSTRUMENT_FAULT


class PolicyViolationError(JobFailureError):
    """A rule forbids the request."""

    kind = FailureKind.POLICY_VIOLATION


class AbortedError(JobFailureError):
    """A person stopped the job."""

    kind = FailureKind.ABORTED


class CannotTellError(MatterloopError):
    """An instrument asked by ``find(key)`` cannot say whether it ever saw that key."""


class PotentialError(MatterloopError):
    """An interatomic potential got or gave something that is not physical."""
