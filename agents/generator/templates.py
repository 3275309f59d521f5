"""Template library: crystals whose sites a generator fills with other elements.

The built-in templates are the AFLOW prototypes that pymatgen ships (Mehl et al., Comput. Mater.
Sci. 136, S1 (2017); Hicks et al., ibid. 161, S1 (2019)); users add their own by file.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import permutations
from pathlib import Path

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from matterloop.loop.chemistry.known import cifs_in_csv
from matterloop.loop.errors import MatterloopError, UsageError

Permutation = tuple[int, ...]


@dataclass(frozen=True)
class Template:
    """A crystal whose elements stand for sites to be filled.

    Attributes
    ----------
    template_id
        Unique in its library, e.g. ``AB3C4_oP16_31_a_ab_2ab/Cu3AsS4``.
    structure
        Primitive cell, ordered; its elements are those of the real compound.
    elements
        Elements of the compound, in order of first appearance; one per *site class*.
    counts
        Atoms of each site class in the cell, aligned with `elements`.
    """

    template_id: str
    structure: Structure
    elements: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def n_atoms(self) -> int:
        """Atoms in the primitive cell."""
        return sum(self.counts)

    def decorate(self, elements: tuple[str, ...]) -> Structure:
        """Fill the site classes with `elements`, aligned with ``self.elements``; same cell."""
        new = dict(zip(self.elements, elements, strict=True))
        species = [new[site.specie.symbol] for site in self.structure]
        return Structure(self.structure.lattice, species, self.structure.frac_coords)


@cache
def aflow_templates() -> tuple[Template, ...]:
    """Return the 288 AFLOW prototypes of pymatgen, primitive cells, in pymatgen's order."""
    # The file is read without pymatgen.analysis.prototypes, whose import spends two seconds and a
    # warning on the literature references.
    spec = find_spec("pymatgen.analysis.prototypes")
    if spec is None or not spec.submodule_search_locations:
        raise MatterloopError("pymatgen is installed without its AFLOW prototypes.")
    file = Path(spec.submodule_search_locations[0], "aflow_prototypes.json.gz")
    library = json.loads(gzip.decompress(file.read_bytes()))
    structures = [Structure.from_dict(entry["snl"]) for entry in library]
    entries = [
        (f"{entry['tags']['aflow']}/{structure.composition.reduced_formula}", structure)
        for entry, structure in zip(library, structures, strict=True)
    ]
    return tuple(_named(entries))


def read_templates(paths: Iterable[str | Path]) -> tuple[Template, ...]:
    """Read a user's templates, reduced to primitive cells.

    Parameters
    ----------
    paths
        CSV files with a `cif` column (plain or ``.gz``; a column `material_id` names the rows),
        single CIF files, or folders of CIF files.

    Raises
    ------
    UsageError
        If a path does not exist, has no `cif` column, or holds a disordered or unreadable crystal.
    """
    return tuple(_named((name, _primitive(name, cif)) for name, cif in _cifs(paths)))


def library_sha256(templates: Iterable[Template]) -> str:
    """Hash names, cells, species and coordinates (10 decimals) of a library."""
    digest = hashlib.sha256()
    for template in templates:
        digest.update(template.template_id.encode())
        digest.update(np.round(template.structure.lattice.matrix, 10).tobytes())
        digest.update(np.round(template.structure.frac_coords, 10).tobytes())
        digest.update(" ".join(site.specie.symbol for site in template.structure).encode())
    return digest.hexdigest()


@cache
def _matcher() -> StructureMatcher:
    return StructureMatcher(primitive_cell=False, scale=True)


_SYMMETRIES: dict[str, tuple[Permutation, ...]] = {}


def interchanges(template: Template) -> tuple[Permutation, ...]:
    """Return the permutations of site classes that give the same crystal, the identity included.

    Rock salt is the same with its two sites exchanged; without this knowledge LiCl would be
    proposed twice. Equality is judged by pymatgen's `StructureMatcher` with default tolerances,
    after a comparison of the distances within each class, which refuses most at little cost.
    """
    key = library_sha256([template])
    if key not in _SYMMETRIES:
        shells = _shells(template)
        classes = range(len(template.counts))
        found = [tuple(classes)]
        for order in permutations(classes):
            if order == found[0] or any(
                template.counts[a] != template.counts[b]
                or not np.allclose(shells[a], shells[b], rtol=0.08)
                for a, b in zip(classes, order, strict=True)
            ):
                continue
            swapped = template.decorate(tuple(template.elements[i] for i in order))
            if _matcher().fit(template.structure, swapped):
                found.append(order)
        _SYMMETRIES[key] = tuple(found)
    return _SYMMETRIES[key]


def _shells(template: Template, n_neighbours: int = 6) -> list[np.ndarray]:
    """Return per site class the mean distances (A) to the 6 nearest sites of the same class."""
    symbols = np.array([site.specie.symbol for site in template.structure])
    shells = []
    for element in template.elements:
        members = Structure.from_sites(
            [s for s, symbol in zip(template.structure, symbols, strict=True) if symbol == element]
        )
        radius = 1.5 * (members.volume / len(members)) ** (1 / 3)
        while True:
            centre, _, _, distance = members.get_neighbor_list(radius)
            if np.bincount(centre, minlength=len(members)).min() >= n_neighbours:
                break
            radius *= 1.3
        nearest = [np.sort(distance[centre == i])[:n_neighbours] for i in range(len(members))]
        shells.append(np.mean(nearest, axis=0))
    return shells


def _named(entries: Iterable[tuple[str, Structure]]) -> Iterator[Template]:
    seen: Counter[str] = Counter()
    for name, structure in entries:
        seen[name] += 1
        unique = name if seen[name] == 1 else f"{name}#{seen[name]}"
        symbols = [site.specie.symbol for site in structure]
        counts = Counter(symbols)
        yield Template(unique, structure, tuple(counts), tuple(counts.values()))


def _cifs(paths: Iterable[str | Path]) -> Iterator[tuple[str, str]]:
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(path.glob("*.cif"))
            if not files:
                raise UsageError(f"The folder {path} holds no CIF file.", "files named *.cif")
            for file in files:
                yield file.stem, file.read_text()
        elif not path.is_file():
            raise UsageError(
                f"The template file {path} does not exist.",
                "a CSV file with a `cif` column, a CIF file or a folder of CIF files",
                "correct the path under the generator's setting `templates`",
            )
        elif path.suffix == ".cif":
            yield path.stem, path.read_text()
        else:
            yield from cifs_in_csv(path)


def _primitive(name: str, cif: str) -> Structure:
    try:
        structure = Structure.from_str(cif, fmt="cif")
    except (ValueError, KeyError, TypeError, IndexError, AssertionError) as error:
        raise UsageError(f"The template {name} cannot be read as CIF: {error}.") from error
    if not structure.is_ordered:
        raise UsageError(
            f"The template {name} is disordered ({structure.composition.formula}).",
            "fully occupied sites, one element each",
        )
    structure.remove_oxidation_states()
    return structure.get_primitive_structure()
