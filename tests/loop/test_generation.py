"""Generating into a folder: interrupted, gone on with, post-processed; with a toy generator."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from matterloop.loop.candidate import Candidate, Conditions, ModelRef
from matterloop.loop.errors import ConflictError, PluginFailedError, UsageError
from matterloop.loop.generation import GenerationRequest, generate_files, trajectory
from matterloop.loop.identifiers import derive_seed
from matterloop.loop.postprocessing import symmetrised
from matterloop.loop.spec import SearchSpace
from matterloop.loop.structure_files import INDEX, FileFormat, read_folder

SPACE = SearchSpace(chemical_system="Ba-Ti-O", required_elements=("Ba", "Ti", "O"))


def perovskite(noise: float = 0.0, seed: int = 0) -> Structure:
    rng = np.random.default_rng(seed)
    places = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    return Structure(
        Lattice.cubic(4.0), ["Ba", "Ti", "O", "O", "O"], places + noise * rng.normal(size=(5, 3))
    )


class Toy:
    """Streams noisy perovskites; fails once at the draw that it is told."""

    def __init__(self, fail_at: int | None = None, sha256: str = "ab" * 32, holds: int = 99):
        self.fail_at, self.sha256, self.holds = fail_at, sha256, holds
        self.made: list[int] = []

    def describe(self) -> ModelRef:
        return ModelRef("generator", "toy", "1", self.sha256)

    def structure(self, draw: int, seed: int) -> Structure:
        return perovskite(0.002, derive_seed(seed, draw))

    def sample(self, n, conditions, *, guidance_scale, seed) -> list[Candidate]:
        return list(self.stream(n, conditions, guidance_scale=guidance_scale, seed=seed))

    def stream(self, n, conditions, *, guidance_scale, seed, start=0) -> Iterator[Candidate]:
        for draw in range(start, min(n, self.holds)):
            if draw == self.fail_at:
                raise RuntimeError("the lights went out")
            self.made.append(draw)
            yield Candidate(self.structure(draw, seed), {"draw": draw}, seed)


class ToyWithoutStream:
    """The same, all at once."""

    def __init__(self) -> None:
        self.toy = Toy()

    def describe(self) -> ModelRef:
        return self.toy.describe()

    def sample(self, n, conditions, *, guidance_scale, seed) -> list[Candidate]:
        return self.toy.sample(n, conditions, guidance_scale=guidance_scale, seed=seed)


def request(**more: object) -> GenerationRequest:
    return GenerationRequest(
        **{"conditions": Conditions(SPACE), "n": 6, "generator": "toy", **more}
    )


def crystals(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.name != INDEX}


@pytest.mark.parametrize("file_format", [FileFormat.CIF, FileFormat.EXTXYZ])
def test_interrupted_and_gone_on_with_is_as_if_never_interrupted(tmp_path, file_format):
    asked = request(file_format=file_format)
    generate_files(asked, Toy(), tmp_path / "whole")
    with pytest.raises(PluginFailedError, match="the lights went out"):
        generate_files(asked, Toy(fail_at=4), tmp_path / "halted")
    assert [entry.draw for entry, _ in read_folder(tmp_path / "halted")] == [0, 1, 2, 3]
    again = Toy()
    done = generate_files(asked, again, tmp_path / "halted")
    assert (again.made, done.new, len(done.entries)) == ([4, 5], 2, 6)
    assert crystals(tmp_path / "halted") == crystals(tmp_path / "whole")
    idle = Toy()
    done = generate_files(asked, idle, tmp_path / "halted")
    assert (idle.made, done.new, len(done.entries)) == ([], 0, 6)


def test_a_file_that_was_removed_is_made_again_and_the_others_are_kept(tmp_path):
    generate_files(request(), Toy(), tmp_path)
    before = crystals(tmp_path)
    (tmp_path / "0002-BaTiO3.cif").unlink()
    kept = (tmp_path / "0003-BaTiO3.cif").stat().st_mtime_ns
    assert generate_files(request(), Toy(), tmp_path).new == 1
    assert crystals(tmp_path) == before
    assert (tmp_path / "0003-BaTiO3.cif").stat().st_mtime_ns == kept


def test_more_crystals_may_be_asked_for_later(tmp_path):
    generate_files(request(n=2), Toy(), tmp_path)
    more = Toy()
    assert len(generate_files(request(n=5), more, tmp_path).entries) == 5
    assert more.made == [2, 3, 4]
    assert len(generate_files(request(n=3), Toy(), tmp_path).entries) == 3
    with pytest.raises(ConflictError, match="n is 5 there, 7 here"):
        generate_files(request(n=7), ToyWithoutStream(), tmp_path)


def test_generators_that_do_not_stream(tmp_path):
    generate_files(request(), Toy(), tmp_path / "stream")
    generate_files(request(), ToyWithoutStream(), tmp_path / "sample")
    assert crystals(tmp_path / "stream") == crystals(tmp_path / "sample")


@pytest.mark.parametrize(
    ("other", "model", "differs"),
    [
        (request(seed=1), Toy(), "seed is 0 there, 1 here"),
        (request(guidance_scale=2.0), Toy(), "guidance_scale"),
        (request(conditions=Conditions(SPACE, {"band_gap": 1.4})), Toy(), "targets.band_gap"),
        (request(file_format=FileFormat.JSON), Toy(), "format is 'cif' there, 'json' here"),
        (request(symmetrise=True), Toy(), "symmetrise"),
        (request(), Toy(sha256="cd" * 32), "generator.sha256"),
    ],
)
def test_another_request_does_not_mix_with_this_one(tmp_path, other, model, differs):
    generate_files(request(n=1), Toy(), tmp_path)
    before = crystals(tmp_path)
    with pytest.raises(ConflictError, match=differs):
        generate_files(other, model, tmp_path)
    assert crystals(tmp_path) == before


def test_progress_is_told(tmp_path):
    told: list[tuple[int, int]] = []
    generate_files(request(n=2), Toy(), tmp_path)
    generate_files(request(n=4), Toy(), tmp_path, looker_on=lambda *seen: told.append(seen))
    assert told == [(2, 4), (3, 4), (4, 4)]


def test_an_exhausted_search_space(tmp_path):
    assert len(generate_files(request(), Toy(holds=2), tmp_path / "few").entries) == 2
    with pytest.raises(UsageError, match="finds no crystal"):
        generate_files(request(), Toy(holds=0), tmp_path / "none")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda s: s.replace_species({"Ti": "Zr"}), "holds Zr"),
        (lambda s: s.remove_sites([0]) or s, "lacks the required Ba"),
        (lambda s: s.make_supercell([5, 1, 1]), "has 25 atoms"),
        (lambda s: Structure(s.lattice, s.species, s.frac_coords * np.nan), "no numbers"),
        (lambda s: s.replace_species({"Ti": {"Ti": 0.5, "Zr": 0.5}}), "partially occupied"),
    ],
)
def test_a_generator_that_breaks_its_promise_is_named(tmp_path, make, why):
    class Bad(Toy):
        def structure(self, draw: int, seed: int) -> Structure:
            fine = super().structure(draw, seed)
            return fine if draw == 0 else make(fine)

    with pytest.raises(PluginFailedError, match=f"'toy'.*crystal number 1 .*{why}"):
        generate_files(request(), Bad(), tmp_path)
    assert len(list(read_folder(tmp_path))) == 1


def test_symmetrised_crystals_sit_on_their_places():
    noisy = perovskite(0.002)
    result = symmetrised(noisy)
    assert (result.space_group, result.symbol, result.applied) == (221, "Pm-3m", True)
    assert result.structure.composition == noisy.composition
    assert result.structure.lattice.abc == pytest.approx([4.0] * 3)
    places = np.sort((result.structure.frac_coords * 2 + 1e-6) % 2, axis=0)
    assert places == pytest.approx(np.round(places), abs=1e-5)


def test_symmetrisation_never_changes_what_a_crystal_is_made_of():
    # Two unlike atoms 0.05 Angstrom apart: within the tolerance they are one place.
    odd = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.0125, 0, 0]])
    result = symmetrised(odd)
    assert result.structure.composition.reduced_composition == odd.composition.reduced_composition
    twin = Structure(Lattice.cubic(4), ["Na", "Na", "Cl"], [[0, 0, 0], [0.01, 0, 0], [0.5] * 3])
    result = symmetrised(twin)
    assert result.structure.composition.reduced_composition == twin.composition.reduced_composition
    assert result.applied or result.reason


def test_symmetrised_files_tell_their_space_group(tmp_path):
    generate_files(request(symmetrise=True, n=2), Toy(), tmp_path)
    for entry, structure in read_folder(tmp_path):
        assert entry.symmetry == {
            "space_group": 221,
            "symbol": "Pm-3m",
            "symprec_A": 0.1,
            "applied": True,
        }
        assert symmetrised(structure, 1e-4).space_group == 221


def test_symmetrisation_keeps_the_number_of_atoms_that_was_demanded(tmp_path):
    class Doubled(Toy):
        def structure(self, draw: int, seed: int) -> Structure:
            return super().structure(draw, seed).make_supercell([2, 1, 1])

    space = SPACE.model_copy(update={"min_atoms": 10, "max_atoms": 10})
    generate_files(request(conditions=Conditions(space), symmetrise=True, n=1), Doubled(), tmp_path)
    ((entry, structure),) = read_folder(tmp_path)
    assert len(structure) == 10
    assert entry.symmetry is not None
    assert not entry.symmetry["applied"]
    assert "has 5 atoms" in entry.symmetry["reason"]


def test_relaxed_files_tell_their_energy(tmp_path):
    generate_files(request(symmetrise=True, relax=True, n=1), Toy(), tmp_path)
    ((entry, structure),) = read_folder(tmp_path)
    told = entry.relaxation
    assert told is not None
    assert told["converged"]
    assert told["potential"].startswith("chgnet")
    assert told["energy_eV_per_atom"] == pytest.approx(-8.0, abs=0.5)
    assert told["formation_energy_eV_per_atom"] == pytest.approx(-3.4, abs=0.3)
    assert abs(told["energy_above_hull_eV_per_atom"]) < 0.1
    assert structure.volume == pytest.approx(64 * (1 + told["volume_change"]), rel=1e-4)


def test_a_crystal_that_cannot_be_relaxed_is_written_as_it_is(tmp_path):
    class Crushed(Toy):
        def structure(self, draw: int, seed: int) -> Structure:
            fine = super().structure(draw, seed)
            fine.translate_sites([0], [0.5, 0.5, 0.49])  # onto the titanium
            return fine

    generate_files(request(relax=True, n=1), Crushed(), tmp_path)
    ((entry, structure),) = read_folder(tmp_path)
    assert entry.relaxation is not None
    assert entry.relaxation["failed"]
    assert structure.volume == pytest.approx(64)


def test_trajectories_only_from_those_who_have_them():
    frames = [(0.0, perovskite(0.2)), (1.0, perovskite())]

    class Showing(Toy):
        def trajectory(self, conditions, *, guidance_scale, seed):
            return frames

    assert trajectory(request(), Showing()) == frames
    with pytest.raises(UsageError, match="no trajectories"):
        trajectory(request(), Toy())
