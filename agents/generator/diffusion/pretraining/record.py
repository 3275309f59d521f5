"""What a training writes down beside its tensors: the request, finished phases, what it cost."""

from __future__ import annotations

import json
import os
import platform
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from matterloop.loop.errors import ConflictError, UsageError
from matterloop.loop.identifiers import canonical_json
from matterloop.loop.structure_files.request import differences
from matterloop.loop.workplace import locked_folder, writable_folder

REQUEST_FILE, STATE_FILE, LOSSES_FILE = "request.json", "state.json", "losses.jsonl"
WORK_FOLDER = "training"
_SOFTWARE = ("matterloop", "torch", "numpy", "pymatgen", "spglib", "safetensors", "pydantic")


class TrainingRecord:
    """The record of one training; use `open`, which locks its folder.

    Attributes
    ----------
    folder
        Working folder; checkpoints lie in it, too.
    """

    def __init__(self, folder: Path, state: dict[str, Any]) -> None:
        self.folder = folder
        self._state = state

    @classmethod
    @contextmanager
    def open(cls, folder: Path, request: Mapping[str, Any]) -> Iterator[TrainingRecord]:
        """Begin a training in a folder, or go on with the one that was begun by the same request.

        Raises
        ------
        UsageError
            If the folder cannot be written.
        ConflictError
            If it holds another training, weights that no training here made, or is being filled.
        """
        writable_folder(folder)
        work = folder / WORK_FOLDER
        with locked_folder(folder, "training in"):
            before = _read(work / REQUEST_FILE)
            asked = json.loads(canonical_json(request))
            if before is None:
                _refuse_foreign(folder)
                writable_folder(work)
                write_json(work / REQUEST_FILE, asked)
            elif (found := differences(before, asked, ignore=())) and _finished_any(work):
                raise ConflictError(
                    f"The folder {str(folder)!r} holds another training: {'; '.join(found)}.",
                    "the request that began it, or another folder",
                    "name another folder with `--out`",
                )
            elif found:  # a mistaken request that did not even find its data
                (work / STATE_FILE).unlink(missing_ok=True)
                write_json(work / REQUEST_FILE, asked)
            yield cls(work, _read(work / STATE_FILE) or {"finished": {}, "cost": {}})

    def finished(self, phase: str) -> dict[str, Any] | None:
        """Return the facts of a finished phase, None if it is not finished."""
        facts: dict[str, Any] | None = self._state["finished"].get(phase)
        return facts

    def finish(self, phase: str, facts: Mapping[str, Any]) -> None:
        """Write down that a phase is finished, and what is worth knowing about it."""
        self._state["finished"][phase] = json.loads(canonical_json(finite(facts)))
        self._save()

    @contextmanager
    def metered(self, phase: str, workers: int = 1) -> Iterator[Meter]:
        """Add up what a phase costs, over all attempts."""
        meter = Meter(self, phase, workers)
        try:
            yield meter
        finally:
            meter.note()

    def add_cost(self, phase: str, wall_s: float, cpu_s: float) -> None:
        """Add to the cost of a phase, and keep it."""
        cost = self._state["cost"].setdefault(phase, {"wall_s": 0.0, "cpu_s": 0.0})
        cost["wall_s"] = round(cost["wall_s"] + wall_s, 3)
        cost["cpu_s"] = round(cost["cpu_s"] + cpu_s, 3)
        self._save()

    def cost(self) -> dict[str, Any]:
        """Return wall and CPU seconds, in all and of every phase."""
        phases = self._state["cost"]
        return {
            "wall_s": round(sum(cost["wall_s"] for cost in phases.values()), 1),
            "cpu_s": round(sum(cost["cpu_s"] for cost in phases.values()), 1),
            "phases": phases,
        }

    def note_losses(self, phase: str, step: int, figures: Mapping[str, float]) -> None:
        """Append a line to the file of losses; after an interruption a step may occur twice."""
        line = canonical_json({"phase": phase, "step": step, **finite(figures)})
        with (self.folder / LOSSES_FILE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _save(self) -> None:
        write_json(self.folder / STATE_FILE, self._state)


class Meter:
    """Measures a phase. Processes that share its work count as much as this one."""

    def __init__(self, record: TrainingRecord, phase: str, workers: int) -> None:
        self._record, self._phase, self._workers = record, phase, workers
        self._wall, self._own, self._others = _times()

    def note(self) -> None:
        """Write down what was spent since the last note."""
        wall, own, others = _times()
        spent = (own - self._own) * self._workers
        if self._workers == 1:
            spent += others - self._others  # pools that parse; they have ended
        self._record.add_cost(self._phase, wall - self._wall, spent)
        self._wall, self._own, self._others = wall, own, others


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file; a crash leaves the old one or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)


def finite(value: Any) -> Any:
    """Replace numbers that JSON does not know by None."""
    if isinstance(value, Mapping):
        return {str(name): finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def machine(device: str) -> dict[str, Any]:
    """Name the processor, its cores and the device; nothing else of the machine."""
    facts: dict[str, Any] = {"cores": os.cpu_count(), "processor": _processor()}
    if device == "cuda":
        import torch

        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def software() -> dict[str, str]:
    """Return the versions of what decides the numbers."""
    found = {"python": platform.python_version()}
    for name in _SOFTWARE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _times() -> tuple[float, float, float]:
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic(), time.process_time(), others.ru_utime + others.ru_stime


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}.",
            "what `matterloop train generator` wrote",
            "name another folder with `--out`",
        ) from None
    return dict(value)


def _finished_any(work: Path) -> bool:
    return bool((_read(work / STATE_FILE) or {"finished": {}})["finished"])


def _refuse_foreign(folder: Path) -> None:
    for name in ("card.json", "geometry.safetensors", "composition.safetensors"):
        if (folder / name).exists():
            raise ConflictError(
                f"The folder {str(folder)!r} holds a {name} of another training.",
                "an empty folder, or one that the same request began",
                "name another folder with `--out`",
            )
