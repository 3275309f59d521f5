"""Properties from descriptors by gradient boosting: a judge that shares nothing with the generator.

Trained on the training part of the split by composition (`matterloop.loop.dataset.part_of`), judged
on the test part, both of which the generator's training divides alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from crystal_descriptors import NAMES, VERSION, descriptors
from pymatgen.core import Structure
from sklearn.ensemble import HistGradientBoostingRegressor

from matterloop.loop.dataset import LABEL_UNITS, WORD_LABELS, part_of
from matterloop.loop.identifiers import content_hash, derive_seed
from matterloop.loop.sources import read_structures

BOOSTING = {"max_iter": 500, "learning_rate": 0.06, "max_leaf_nodes": 31, "l2_regularization": 1.0}
NUMBERS = tuple(name for name in LABEL_UNITS if name not in WORD_LABELS)


@dataclass(frozen=True)
class Table:
    """Descriptors and labels of a data set.

    Attributes
    ----------
    features
        (crystals, descriptors).
    labels
        (crystals, len(NUMBERS)), NaN where not known.
    part
        (crystals,) ``train``, ``validation`` or ``test``.
    """

    features: np.ndarray
    labels: np.ndarray
    part: np.ndarray


@dataclass(frozen=True)
class Regressor:
    """One property.

    Attributes
    ----------
    error
        JSON: ``train`` and ``test`` (crystals), ``test_mae`` and, for comparison, what the mean of
        the training part would have got (``mean_guess_mae``), ``test_r2``, ``unit``.
    """

    label: str
    model: HistGradientBoostingRegressor
    error: Mapping[str, Any]

    def values(self, structures: Sequence[Structure]) -> list[float]:
        """Return the property of every crystal; only a formation energy may be negative."""
        if not structures:
            return []
        features = np.stack([descriptors(structure) for structure in structures])
        return [float(value) for value in _predict(self.model, self.label, features)]


def mark(data: Path, seed: int) -> str:
    """Hash everything that decides what the regressors say."""
    return content_hash([sha256(data), VERSION, BOOSTING, seed])


def sha256(path: Path) -> str:
    """Hash a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_table(data: Path, cache: Path, workers: int) -> Table:
    """Compute descriptors of a data set (some 10 ms per crystal), or read them from `cache`."""
    own = content_hash([sha256(data), VERSION, NAMES])
    if cache.is_file():
        with np.load(cache, allow_pickle=False) as stored:
            if str(stored["mark"]) == own:
                return Table(stored["features"], stored["labels"], stored["part"])
    features, labels, part = [], [], []
    for item in read_structures(data, settings={"processes": workers}):
        features.append(descriptors(item.structure))
        labels.append([float(item.labels.get(name, np.nan)) for name in NUMBERS])
        part.append(part_of(item.reduced_formula))
        if len(part) % 2000 == 0:
            print(f"descriptors: {len(part)} crystals", flush=True)
    table = Table(np.stack(features), np.array(labels), np.array(part))
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(".partial.npz")
    np.savez_compressed(
        partial, mark=own, features=table.features, labels=table.labels, part=table.part
    )
    partial.replace(cache)
    return table


def fit(table: Table, label: str, seed: int) -> Regressor:
    """Train on the training part, measure on the test part."""
    truth = table.labels[:, NUMBERS.index(label)]
    known = np.isfinite(truth)
    train, test = known & (table.part == "train"), known & (table.part == "test")
    model = HistGradientBoostingRegressor(
        **BOOSTING, early_stopping=False, random_state=derive_seed(seed, label) % 2**31
    )
    model.fit(table.features[train], truth[train])
    error: dict[str, Any] = {"train": int(train.sum()), "test": int(test.sum())}
    if test.any():
        miss = _predict(model, label, table.features[test]) - truth[test]
        spread = truth[test] - truth[train].mean()
        error |= {
            "test_mae": float(np.abs(miss).mean()),
            "mean_guess_mae": float(np.abs(spread).mean()),
            "test_r2": float(1 - (miss**2).sum() / max(float((spread**2).sum()), 1e-12)),
        }
    return Regressor(label, model, {**error, "unit": LABEL_UNITS[label]})


def _predict(model: HistGradientBoostingRegressor, label: str, features: np.ndarray) -> np.ndarray:
    values: np.ndarray = model.predict(features)
    return values if label == "formation_energy" else np.maximum(values, 0.0)
