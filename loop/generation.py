"""Generating crystals into a folder: from a request to files, in as many goes as it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matterloop.loop.elements import element_counts
from matterloop.loop.errors import MatterloopError, PluginFailedError, SpecError, UsageError
from matterloop.loop.plugins import build, calling, check_settings, load
from matterloop.loop.protocols import Guidable, StreamingGenerator, TrajectoryGenerator
from matterloop.loop.structure_files import Entry, Facts, FileFormat, StructureFolder

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from matterloop.loop.candidate import Candidate, Conditions, ModelRef
    from matterloop.loop.hull import ReferenceHull
    from matterloop.loop.protocols import Generator, Potential

DEFAULT_GENERATOR = "diffusion"
POTENTIAL = "chgnet"
"""Relaxes; the default of campaigns as well."""
RELAXED_AT_ONCE = 4
"""Crystals per worker that are relaxed together before their files are written."""


@dataclass(frozen=True)
class GenerationRequest:
    """What is to be generated, and how it is written.

    Attributes
    ----------
    conditions
        Hard and soft conditions.
    n
        Number of crystals.
    generator, settings
        Plugin of the group ``matterloop.generators``, and what differs from its default settings.
    guidance_scale
        How hard the soft conditions pull; 0 ignores them.
    seed
        Decides every draw.
    file_format
        How crystals are written.
    symmetrise, relax
        What is done to each before; see `matterloop.loop.postprocessing`.
    """

    conditions: Conditions
    n: int = 16
    generator: str = DEFAULT_GENERATOR
    settings: Mapping[str, Any] = field(default_factory=dict)
    guidance_scale: float = 1.0
    seed: int = 0
    file_format: FileFormat = FileFormat.CIF
    symmetrise: bool = False
    relax: bool = False

    def identity(self, model: ModelRef) -> dict[str, Any]:
        """Return everything that decides what is written, except `n`, as JSON."""
        from matterloop.loop.postprocessing import SHORT_RELAXATION, SYMPREC_A

        return {
            "generator": {
                "plugin": self.generator,
                "name": model.name,
                "version": model.version,
                "sha256": model.sha256,
                "config": dict(model.config),
            },
            "search_space": self.conditions.search_space.model_dump(mode="json"),
            "targets": dict(self.conditions.targets),
            "temperature_K": self.conditions.temperature_K,
            "pressure_GPa": self.conditions.pressure_GPa,
            "guidance_scale": self.guidance_scale,
            "seed": self.seed,
            "format": self.file_format.value,
            "symmetrise": {"symprec_A": SYMPREC_A} if self.symmetrise else None,
            "relax": {
                "potential": POTENTIAL,
                "fmax_eV_per_A": SHORT_RELAXATION.fmax_eV_per_A,
                "max_steps": SHORT_RELAXATION.max_steps,
            }
            if self.relax
            else None,
        }


@dataclass(frozen=True)
class Generated:
    """What a run did.

    Attributes
    ----------
    entries
        All crystals of the request that the folder holds now, in the order of their draws.
    new
        How many of them this run wrote.
    """

    entries: tuple[Entry, ...]
    new: int


def build_generator(request: GenerationRequest) -> Generator:
    """Import and build the generator of a request, without a campaign around it.

    Raises
    ------
    UsageError
        If it does not know a setting, or the request has targets that it cannot be asked for.
    PluginNotFoundError, PluginBrokenError
        If there is none.
    """
    name = request.generator
    try:
        check_settings(load("generators", name), name, request.settings)
    except SpecError as error:
        raise UsageError(
            f"The generator {name!r} cannot be set up so: {'; '.join(error.problems)}."
        ) from None
    generator: Generator = build("generators", name, request.settings, None)
    known = generator.target_names if isinstance(generator, Guidable) else ()
    unknown = [target for target in request.conditions.targets if target not in known]
    if unknown:
        raise UsageError(
            f"The generator {name!r} cannot be asked for {', '.join(map(repr, unknown))}.",
            f"one of {', '.join(known)}" if known else "no target at all: it takes none",
            remedy="" if known else f"use `--generator {DEFAULT_GENERATOR}`, or leave it out",
        )
    return generator


def generate_files(
    request: GenerationRequest,
    generator: Generator,
    folder: Path,
    *,
    workers: int = 1,
    looker_on: Callable[[int, int], None] | None = None,
) -> Generated:
    """Write the crystals of a request into a folder, each as soon as it is ready.

    What the folder holds already is kept, so the same call goes on where an earlier one ended.

    Parameters
    ----------
    workers
        Processes that may relax at once.
    looker_on
        Told after each crystal how many are there and how many are wanted.

    Raises
    ------
    ConflictError
        If the folder was begun with another request.
    UsageError
        If the folder cannot be written, or the generator finds no crystal at all.
    """
    with calling("generators", request.generator):
        model = generator.describe()
    extendable = isinstance(generator, StreamingGenerator)
    identity = request.identity(model)
    with StructureFolder.open(folder, identity, n=request.n, extendable=extendable) as opened:
        missing = opened.missing(request.n)
        new = 0

        def tell() -> None:
            if looker_on is not None:
                looker_on(request.n - len(missing) + new, request.n)

        tell()
        if missing:
            drawn = (
                (draw, candidate)
                for draw, candidate in _draws(request, generator, missing[0])
                if draw not in opened.entries
            )
            for draw, structure, facts in _finished(request, model, drawn, workers):
                opened.add(draw, structure, facts)
                new += 1
                tell()
        entries = tuple(e for draw, e in sorted(opened.entries.items()) if draw < request.n)
    if not entries:
        raise UsageError(
            f"The generator {request.generator!r} finds no crystal in this search space.",
            "one that holds crystals it knows how to build",
            "allow more elements or more atoms, or use another generator",
        )
    return Generated(entries, new)


def trajectory(request: GenerationRequest, generator: Generator) -> list[tuple[float, Structure]]:
    """Return how the first crystal of a request appears from noise: times 0 to 1 and crystals.

    Raises
    ------
    UsageError
        If the generator cannot show it.
    """
    if not isinstance(generator, TrajectoryGenerator):
        raise UsageError(
            f"The generator {request.generator!r} has no trajectories to show.",
            "one whose crystals appear step by step",
            f"use `--generator {DEFAULT_GENERATOR}`, or leave `--trajectory` out",
        )
    with calling("generators", request.generator):
        return generator.trajectory(
            request.conditions, guidance_scale=request.guidance_scale, seed=request.seed
        )


def _draws(
    request: GenerationRequest, generator: Generator, start: int
) -> Iterator[tuple[int, Candidate]]:
    """Yield the draws from `start` on with their numbers."""
    n, conditions = request.n, request.conditions
    with calling("generators", request.generator):
        if isinstance(generator, StreamingGenerator):
            candidates = generator.stream(
                n,
                conditions,
                guidance_scale=request.guidance_scale,
                seed=request.seed,
                start=start,
            )
        else:
            whole = generator.sample(
                n, conditions, guidance_scale=request.guidance_scale, seed=request.seed
            )
            candidates = iter(whole[start:])
    number = start
    while True:
        # Only the generator's own work is inside: what else fails is not its fault.
        with calling("generators", request.generator):
            candidate = next(candidates, None)
        if candidate is None or number == n:
            return
        _check(request, candidate, number)
        yield number, candidate
        number += 1


def _check(request: GenerationRequest, candidate: Candidate, number: int) -> None:
    """Refuse what breaks the generator's promise: files must obey what the user demanded."""
    import numpy as np

    structure = candidate.structure
    reason: str | None = None
    if not (
        np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all()
    ):
        reason = "has coordinates that are no numbers"
    elif not structure.is_ordered:
        reason = "has partially occupied sites"
    else:
        reason = request.conditions.search_space.why_outside(element_counts(structure))
    if reason:
        raise PluginFailedError(
            "matterloop.generators", request.generator, f"crystal number {number} {reason}"
        )


def _finished(
    request: GenerationRequest,
    model: ModelRef,
    drawn: Iterator[tuple[int, Candidate]],
    workers: int,
) -> Iterator[tuple[int, Structure, Facts]]:
    """Post-process what was drawn, in the order of the draws."""
    from matterloop.loop.postprocessing import shortly_relaxed

    with _potential(request.relax, workers) as (potential, hull):
        while chunk := list(islice(drawn, RELAXED_AT_ONCE * workers if potential else 1)):
            prepared = [_symmetrised(request, candidate.structure) for _, candidate in chunk]
            structures = [structure for structure, _ in prepared]
            relaxations: list[dict[str, Any] | None] = [None] * len(chunk)
            if potential is not None:
                results = list(shortly_relaxed(structures, potential, hull))
                structures = [result.structure for result in results]
                relaxations = [result.facts for result in results]
            for (draw, candidate), structure, (_, symmetry), relaxation in zip(
                chunk, structures, prepared, relaxations, strict=True
            ):
                facts = Facts(
                    seed=candidate.seed,
                    model=model,
                    targets=request.conditions.targets,
                    origin=candidate.origin,
                    symmetry=symmetry,
                    relaxation=relaxation,
                )
                yield draw, structure, facts


def _symmetrised(
    request: GenerationRequest, structure: Structure
) -> tuple[Structure, dict[str, Any] | None]:
    from matterloop.loop.postprocessing import SYMPREC_A, symmetrised

    if not request.symmetrise:
        return structure, None
    result = symmetrised(structure)
    facts = result.facts(SYMPREC_A)
    # The primitive cell may hold fewer atoms than were demanded.
    space = request.conditions.search_space
    if result.applied and (why := space.why_outside(element_counts(result.structure))):
        return structure, {**facts, "applied": False, "reason": f"the symmetric cell {why}"}
    return result.structure, facts


@dataclass(frozen=True)
class _Bench:
    """The part of a workshop that a potential needs."""

    workers: int


@contextmanager
def _potential(
    wanted: bool, workers: int
) -> Iterator[tuple[Potential | None, ReferenceHull | None]]:
    if not wanted:
        yield None, None
        return
    from matterloop.loop.hull import ReferenceHull

    potential: Potential = build("potentials", POTENTIAL, {}, _Bench(workers))
    try:
        try:
            hull = ReferenceHull.shipped(potential.identity)
        except MatterloopError:
            hull = None  # energies alone are told
        yield potential, hull
    finally:
        potential.close()
