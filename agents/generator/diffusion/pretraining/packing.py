"""From a stream of labelled structures to tensors on disk, once for all runs in a folder.

Parsing and reducing a crystal takes some 20 ms of a CPU; what is packed is read in a second.
"""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from matterloop.agents.generator.diffusion.augmentation.augment import augment
from matterloop.agents.generator.diffusion.composition.training import CompositionExample
from matterloop.agents.generator.diffusion.conditioning import (
    CATEGORICAL_LABELS,
    CONTINUOUS_LABELS,
    LABELS,
    Labels,
    LabelTensors,
)
from matterloop.agents.generator.diffusion.dataset import Block, Example, PackedCrystals
from matterloop.agents.generator.diffusion.pretraining.settings import DataSettings
from matterloop.agents.generator.diffusion.representation import (
    RepresentationError,
    to_arrays,
)
from matterloop.loop.dataset import (
    LabelledStructure,
    Part,
    combined_sha256,
    item_sha256,
    part_of,
    with_geometry_labels,
)
from matterloop.loop.errors import UsageError
from matterloop.loop.evaluation.novelty import formula_entry, formula_index_of

_CHUNK = 16
_REASONS_KEPT = 20
_FORMAT = 1

Place = Literal["train", "augmented", "validation"]


@dataclass(frozen=True)
class PackedData:
    """A data set, ready for training.

    Attributes
    ----------
    train, augmented, validation
        Crystals of the parts, and those made from the training part.
    formulas
        Index of the training part's formulas; see `matterloop.loop.evaluation.novelty`.
    facts
        JSON: ``dataset_sha256``, ``read``, ``train``, ``augmented``, ``validation``, ``test``,
        ``left_out``, ``reasons`` (the first ones), ``labels`` (name to number, training part).
    """

    train: PackedCrystals
    augmented: PackedCrystals
    validation: PackedCrystals
    formulas: bytes
    facts: Mapping[str, Any]

    @property
    def everything(self) -> PackedCrystals:
        """Training part and what was made from it."""
        blocks = dict(self.train.blocks)
        for size, block in self.augmented.blocks.items():
            blocks[size] = _joined(blocks[size], block) if size in blocks else block
        return PackedCrystals(dict(sorted(blocks.items())))

    def save(self, path: Path, mark: str) -> None:
        """Write everything; a crash leaves no file of this name."""
        tensors = {"formulas": torch.from_numpy(np.frombuffer(self.formulas, np.uint8).copy())}
        for place, packed in self._parts().items():
            for size, block in packed.blocks.items():
                tensors |= {f"{place}.{size}.{k}": v for k, v in _tensors(block).items()}
        partial_file = path.with_name(path.name + ".partial")
        facts = json.dumps({"format": _FORMAT, "mark": mark, "facts": self.facts})
        save_file(tensors, partial_file, metadata={"packed": facts})
        partial_file.replace(path)

    @classmethod
    def load(cls, path: Path, mark: str) -> PackedData | None:
        """Read what `save` wrote under the same mark; None if there is no such file."""
        try:
            with safe_open(path, "pt") as file:
                head = json.loads(file.metadata()["packed"])
                if (head["format"], head["mark"]) != (_FORMAT, mark):
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        formulas = tensors.pop("formulas").numpy().tobytes()
        parts = {place: _unpacked(tensors, place) for place in ("train", "augmented", "validation")}
        return cls(**parts, formulas=formulas, facts=head["facts"])

    def _parts(self) -> dict[str, PackedCrystals]:
        return {
            "train": self.train,
            "augmented": self.augmented,
            "validation": self.validation,
        }


def pack_structures(
    items: Iterable[LabelledStructure],
    settings: DataSettings,
    *,
    max_atoms: int,
    source: str,
    seed: int,
    processes: int = 1,
) -> Iterator[int | PackedData]:
    """Split, represent, label and augment crystals; yield how many are done, last the result.

    Parameters
    ----------
    max_atoms
        Larger cells are left out.
    source
        Name of the data in the formula index.

    Raises
    ------
    UsageError
        If nothing is left for training.
    """
    work = partial(_represent, settings=settings, max_atoms=max_atoms, seed=seed)
    examples: dict[str, list[Example]] = {"train": [], "augmented": [], "validation": []}
    counts: Counter[str] = Counter()
    hashes: list[str] = []
    reasons: list[str] = []
    entries: set[tuple[str, int]] = set()
    for done, row in enumerate(_mapped(work, items, processes), start=1):
        hashes.append(row.sha256)
        counts[row.part] += 1
        if row.reason:
            reasons.append(row.reason)
            counts["left_out"] += 1
        elif row.part != "test":
            examples[row.part].append(row.examples[0])
            examples["augmented"] += row.examples[1:]
        if row.formula is not None:
            entries.add(row.formula)
        yield done
    if not examples["train"]:
        raise UsageError(
            f"Nothing is left to train on: {len(hashes)} crystals read, {counts['left_out']} left"
            f" out{f' ({reasons[0]})' if reasons else ''}, {counts['test']} for the test,"
            f" {counts['validation']} for validation.",
            f"ordered crystals of at most {max_atoms} atoms",
        )
    known = Counter(name for example in examples["train"] for name in example.labels)
    yield PackedData(
        train=PackedCrystals.pack(examples["train"]),
        augmented=PackedCrystals.pack(examples["augmented"]),
        validation=PackedCrystals.pack(examples["validation"]),
        formulas=formula_index_of(entries, source),
        facts={
            "dataset_sha256": combined_sha256(hashes),
            "read": len(hashes),
            "train": len(examples["train"]),
            "augmented": len(examples["augmented"]),
            "validation": len(examples["validation"]),
            "test": counts["test"],
            "left_out": counts["left_out"],
            "reasons": reasons[:_REASONS_KEPT],
            "labels": {name: known[name] for name in LABELS if known[name]},
        },
    )


def composition_examples(packed: PackedCrystals) -> list[CompositionExample]:
    """Return what the composition network learns from."""
    return [
        CompositionExample(tuple(numbers), labels)
        for block in packed.blocks.values()
        for numbers, labels in zip(block.numbers.tolist(), decoded(block.labels), strict=True)
    ]


def decoded(labels: LabelTensors) -> list[Labels]:
    """Invert `LabelTensors.encode`."""
    words = [(name, list(known)) for name, known in CATEGORICAL_LABELS.items()]
    result: list[Labels] = []
    for values, indices in zip(
        labels.continuous.tolist(), labels.categorical.tolist(), strict=True
    ):
        row: dict[str, float | str] = {
            name: value
            for name, value in zip(CONTINUOUS_LABELS, values, strict=True)
            if value == value  # NaN is what is not given
        }
        for (name, known), index in zip(words, indices, strict=True):
            if index:
                row[name] = known[index - 1]
        result.append(row)
    return result


@dataclass(frozen=True)
class _Row:
    """What became of one crystal; `examples` begins with the crystal itself."""

    part: Part
    sha256: str
    examples: Sequence[Example] = ()
    formula: tuple[str, int] | None = None
    reason: str = ""


def _represent(
    item: LabelledStructure, *, settings: DataSettings, max_atoms: int, seed: int
) -> _Row:
    sha256 = item_sha256(item)
    part = part_of(item.reduced_formula, settings.fractions, settings.split_seed)
    if len(item.structure) > max_atoms:
        reason = f"{item.identifier}: {len(item.structure)} atoms"
        return _Row(part, sha256, reason=reason)
    if part == "test":
        return _Row(part, sha256)
    if settings.geometry_labels:
        item = with_geometry_labels(item)
    try:
        own = Example(to_arrays(item.structure), known_labels(item.labels))
        formula = formula_entry(item.structure) if part == "train" else None
    except (RepresentationError, UsageError) as error:
        return _Row(part, sha256, reason=f"{item.identifier}: {error}")
    made = _augmented(item, settings, max_atoms, seed) if part == "train" else []
    return _Row(part, sha256, [own, *made], formula)


def _augmented(
    item: LabelledStructure, settings: DataSettings, max_atoms: int, seed: int
) -> list[Example]:
    made = []
    for other in list(augment([item], settings.changes, seed))[1:]:
        if len(other.structure) > max_atoms:
            continue
        try:
            example = Example(to_arrays(other.structure), known_labels(other.labels))
        except RepresentationError:
            continue
        made.append(replace(example, weight=settings.augmented_weight))
    return made


def known_labels(labels: Labels) -> Labels:
    """Return those labels that the networks know; a method without a word of its own is another."""
    known = {name: value for name, value in labels.items() if name in LABELS}
    if "method" in known and known["method"] not in CATEGORICAL_LABELS["method"]:
        known["method"] = "other"
    return known


def _mapped(
    work: partial[_Row], items: Iterable[LabelledStructure], processes: int
) -> Iterator[_Row]:
    if processes <= 1:
        yield from map(work, items)
        return
    # spawn: a fork would inherit the locks of threads that the caller runs
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(work, items, chunksize=_CHUNK)


def _tensors(block: Block) -> dict[str, Tensor]:
    return {
        "numbers": block.numbers,
        "fractional": block.fractional,
        "lattice": block.lattice,
        "continuous": block.labels.continuous,
        "categorical": block.labels.categorical,
        "weight": block.weight,
    }


def _block(tensors: Mapping[str, Tensor]) -> Block:
    labels = LabelTensors(tensors["continuous"], tensors["categorical"])
    return Block(
        tensors["numbers"], tensors["fractional"], tensors["lattice"], labels, tensors["weight"]
    )


def _joined(first: Block, second: Block) -> Block:
    left, right = _tensors(first), _tensors(second)
    return _block({name: torch.cat([left[name], right[name]]) for name in left})


def _unpacked(tensors: Mapping[str, Tensor], place: str) -> PackedCrystals:
    blocks: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, size, field = name.split(".")
        if part == place:
            blocks.setdefault(int(size), {})[field] = tensor
    return PackedCrystals({size: _block(blocks[size]) for size in sorted(blocks)})
