"""Augmentation: what is changed, what must not be, and which labels survive."""

from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from matterloop.agents.generator.diffusion.augmentation.augment import (
    CHANGES,
    AugmentationSettings,
    alter,
    augment,
    strain,
)
from matterloop.agents.generator.diffusion.augmentation.defects import (
    DefectSettings,
    add_defect,
    voids,
)
from matterloop.agents.generator.diffusion.augmentation.element_swaps import (
    ElementSwapSettings,
    is_known,
    swap_elements,
)
from matterloop.agents.generator.diffusion.augmentation.supercells import (
    diagonals,
    random_hermite_normal_form,
    random_supercell,
)
from matterloop.loop.dataset import (
    LABEL_UNITS,
    LabelledStructure,
    SplitFractions,
    part_of,
    with_geometry_labels,
)

LABELS = {
    "formation_energy": -2.1,
    "energy_above_hull": 0.0,
    "band_gap": 5.0,
    "density": 2.0,
    "temperature": 900.0,
    "pressure": 0.1,
    "crystal_system": "cubic",
    "space_group": "221",
    "method": "solid-state",
}


def caesium_chloride(cation="Cs", anion="Cl", a=4.12):
    return Structure(Lattice.cubic(a), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


@cache
def perovskite():
    return Structure(
        Lattice.cubic(4.0),
        ["Ba", "Ti", "O", "O", "O"],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    )


def oblique():
    return Structure(
        Lattice.from_parameters(3.9, 5.1, 6.3, 78, 95, 104),
        ["Li", "P", "S", "S"],
        [[0.1, 0.2, 0.3], [0.5, 0.6, 0.1], [0.9, 0.1, 0.7], [0.4, 0.8, 0.6]],
    )


def labelled(structure, identifier="mp-1"):
    return LabelledStructure(structure, LABELS, "toy", identifier)


def rng(seed=0):
    return np.random.default_rng(seed)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.floats(1e-4, 0.2))
def test_a_strain_is_symmetric_small_and_leaves_the_coordinates(seed, amplitude):
    before = oblique()
    after = strain(before, amplitude, rng(seed))
    deformation = np.linalg.solve(before.lattice.matrix, after.lattice.matrix)
    tensor = deformation - np.eye(3)
    assert np.abs(tensor - tensor.T).max() < 1e-10
    assert 0 < np.abs(tensor).max() <= amplitude + 1e-10
    assert np.allclose(after.frac_coords, before.frac_coords, atol=1e-12)
    assert after.species == before.species
    # Singular values of 1 + e lie within 3 amplitudes of 1 (Gershgorin).
    assert (1 - 3 * amplitude) ** 3 <= after.volume / before.volume <= (1 + 3 * amplitude) ** 3


def test_strains_fill_the_range_that_was_declared():
    cell = caesium_chloride()
    tensors = [
        strain(cell, 0.03, generator).lattice.matrix / 4.12 - np.eye(3)
        for generator in [rng(1)]
        for _ in range(300)
    ]
    upper = np.array([tensor[np.triu_indices(3)] for tensor in tensors])
    assert upper.std(axis=0) == pytest.approx(np.full(6, 0.03 / np.sqrt(3)), rel=0.1)
    assert upper.mean(axis=0) == pytest.approx(np.zeros(6), abs=0.004)


@pytest.mark.parametrize(("index", "number"), [(1, 1), (2, 7), (3, 13), (4, 35), (6, 91)])
def test_all_hermite_normal_forms_are_found(index, number):
    # Numbers of sublattices of a lattice in three dimensions: OEIS A001001.
    assert sum(c * f * f for _, c, f in diagonals(index)) == number
    generator = rng(3)
    drawn = Counter(
        random_hermite_normal_form(index, generator).tobytes() for _ in range(60 * number)
    )
    assert len(drawn) == number
    assert max(drawn.values()) < 60 * 2


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(2, 24), st.integers(1, 4))
def test_a_supercell_is_the_same_crystal_within_the_bounds(seed, low, high, shapes):
    unit = caesium_chloride()
    cell = random_supercell(unit, low, high, rng(seed), shapes=shapes)
    fits = [n for n in range(2, 13) if low <= 2 * n <= high]
    assert (cell is None) == (not fits)
    if cell is None:
        return
    assert low <= len(cell) <= high
    assert len(cell) % 2 == 0
    assert cell.density == pytest.approx(unit.density)
    assert len(cell.get_primitive_structure()) == 2
    assert cell.get_sites_in_sphere(cell[0].coords, 3.6)[1].nn_distance == pytest.approx(
        4.12 * np.sqrt(3) / 2
    )


def test_more_shapes_give_more_compact_supercells():
    def shortest(shapes):
        cells = [random_supercell(caesium_chloride(), 16, 17, rng(s), shapes=shapes)
                 for s in range(20)]  # fmt: skip
        return np.mean([min(cell.lattice.abc) for cell in cells])

    assert shortest(10) > shortest(1)


def test_substitutions_are_charge_neutral_and_keep_the_symmetry():
    swapped = swap_elements(perovskite(), 10, ElementSwapSettings(), rng())
    formulas = {crystal.composition.reduced_formula for crystal, _ in swapped}
    assert len(formulas) == len(swapped) == 10
    assert "BaTiO3" not in formulas
    for crystal, note in swapped:
        assert crystal.composition.anonymized_formula == "ABC3"
        assert with_geometry_labels(LabelledStructure(crystal)).labels["space_group"] == "221"
        assert crystal.composition.oxi_state_guesses(), crystal.composition
        replaced = dict(pair.split(">") for pair in note.split(","))
        new = [replaced.get(symbol, symbol) for symbol in ("Ba", "Ti", "O", "O", "O")]
        assert [site.specie.symbol for site in crystal] == new
        assert np.allclose(crystal.frac_coords, perovskite().frac_coords)


def test_likely_substitutions_are_drawn_more_often():
    single = ElementSwapSettings(elements=("Ba", "Sr", "Ca", "Pb", "Ti", "O"))
    drawn = Counter(
        swap_elements(perovskite(), 1, single, generator)[0][1]
        for generator in [rng(2)]
        for _ in range(60)
    )
    assert drawn.most_common(1)[0][0] == "Ba>Sr"


def test_metals_are_replaced_by_metals_only():
    alloy = caesium_chloride("Ni", "Al", 2.89)
    swapped = swap_elements(alloy, 20, ElementSwapSettings(), rng())
    assert len(swapped) == 20
    nonmetals = set("H C N O F P S Cl Se Br I".split())
    assert not nonmetals & {e.symbol for crystal, _ in swapped for e in crystal.composition}


def test_what_the_table_does_not_know_is_left_alone():
    assert is_known(("Cd", 2))
    assert not is_known(("Te", -2))
    swapped = swap_elements(caesium_chloride("Cd", "Te", 3.9), 20, ElementSwapSettings(), rng())
    assert all("Te>" not in note for _, note in swapped)
    mixed_valence = Structure.from_sites([*perovskite()[:2], *perovskite()[2:]])
    mixed_valence.replace(0, "Na")  # NaTiO3: no whole oxidation state of titanium fits
    assert swap_elements(mixed_valence, 5, ElementSwapSettings(), rng()) == []


@pytest.mark.parametrize("kind", ["vacancy", "antisite", "foreign", "interstitial"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_defect_changes_one_atom_of_a_supercell(kind, seed):
    made = add_defect(perovskite(), DefectSettings(kinds=(kind,)), rng(seed))
    assert made is not None
    crystal, note = made
    name, _, what = note.partition("-")
    assert name == kind
    change = {"vacancy": -1, "interstitial": 1}.get(kind, 0)
    assert len(crystal) <= 20
    assert (len(crystal) - change) % 5 == 0
    cells = (len(crystal) - change) // 5
    host = Counter({"Ba": cells, "Ti": cells, "O": 3 * cells})
    found = Counter(site.specie.symbol for site in crystal)
    old, new = {
        "vacancy": ([what], []),
        "interstitial": ([], [what]),
    }.get(kind) or ([what.split(">")[0]], [what.split(">")[1]])
    assert found == host - Counter(old) + Counter(new)
    assert cells >= 2
    if kind == "foreign":
        assert new[0] not in host
    if kind == "antisite":
        assert new[0] in host


def test_foreign_ions_have_the_charge_of_the_place():
    wanted = DefectSettings(kinds=("foreign",))
    generator = rng(5)
    notes = [add_defect(perovskite(), wanted, generator) for _ in range(40)]
    on_barium = {made[1].split(">")[1] for made in notes if made and "Ba>" in made[1]}
    assert on_barium
    assert on_barium <= set("Sr Ca Pb Mg Mn Fe Co Ni Cu Zn Cd Hg Eu Yb Sm Sn Be Ra V Cr Pd Ti Pt "
                            "Ge Ga Tm Ag Nd Dy Mo Nb Au".split())  # fmt: skip


def test_an_interstitial_keeps_its_distance():
    wanted = DefectSettings(kinds=("interstitial",), min_distance_A=1.6)
    for seed in range(5):
        crystal, _ = add_defect(perovskite(), wanted, rng(seed))
        distances = crystal.distance_matrix[-1, :-1]
        assert distances.min() >= 1.6 - 1e-6
    assert add_defect(perovskite(), DefectSettings(kinds=("interstitial",), min_distance_A=4.0),
                      rng()) is None  # fmt: skip


def test_voids_of_a_face_centred_lattice_are_its_octahedra_and_tetrahedra():
    copper = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]])
    found = voids(copper, 1.0)
    radii = copper.lattice.get_all_distances(found, copper.frac_coords).min(axis=1)
    octahedral, tetrahedral = 1.8, 3.6 * np.sqrt(3) / 4
    assert radii == pytest.approx([octahedral] * 4 + [tetrahedral] * 8, abs=1e-6)
    assert len(voids(copper, 1.7)) == 4


def test_the_last_atom_of_an_element_is_never_taken():
    cell = Structure(Lattice.cubic(4), ["Li", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    wanted = DefectSettings(min_atoms=2, kinds=("vacancy", "foreign", "antisite"))
    assert all(add_defect(cell, wanted, rng(seed)) is None for seed in range(8))


@pytest.mark.parametrize("change", CHANGES)
def test_only_labels_that_still_hold_are_kept(change):
    item = labelled(perovskite())
    wanted = AugmentationSettings(**{change: {"copies": 3}})
    made = alter(item, change, wanted, rng(1))
    assert len(made) == 3
    kept = {
        "supercell": set(LABEL_UNITS),
        "strain": {"density"},
        "substitution": {"density", "space_group", "crystal_system"},
        "defect": {"density"},
    }[change]
    for number, one in enumerate(made):
        assert set(one.labels) == kept
        assert one.labels["density"] == pytest.approx(one.structure.density)
        assert one.source == f"toy/{change}"
        assert one.identifier.startswith(f"mp-1/{change}-{number}")
        assert all(one.labels[name] == LABELS[name] for name in kept - {"density"})


def test_a_supercell_matches_its_parent_and_unknown_labels_are_dropped():
    item = LabelledStructure(oblique(), {**LABELS, "total_magnetisation": 3.0}, "toy", "x")
    (made,) = alter(item, "supercell", AugmentationSettings(supercell={"copies": 1}), rng(1))
    assert len(made.structure) > 4
    assert StructureMatcher().fit(item.structure, made.structure)
    assert "total_magnetisation" not in made.labels


EVERYTHING = AugmentationSettings(
    supercell={"copies": 1}, strain={"copies": 2}, substitution={"copies": 2.5},
    defect={"copies": 1.5},
)  # fmt: skip


def crystals():
    return [
        labelled(perovskite(), "a"),
        labelled(oblique(), "b"),
        labelled(caesium_chloride("Ni", "Al", 2.89), "c"),
    ]


def content(items):
    return [
        (i.identifier, i.source, dict(i.labels), i.structure.lattice.matrix.tolist(),
         i.structure.frac_coords.tolist(), [s.specie.symbol for s in i.structure])
        for i in items
    ]  # fmt: skip


def test_the_same_seed_gives_the_same_whatever_else_is_there():
    whole = content(augment(crystals(), EVERYTHING, seed=7))
    assert whole == content(augment(crystals(), EVERYTHING, seed=7))
    alone = content(augment(crystals()[1:2], EVERYTHING, seed=7))
    assert alone == [entry for entry in whole if entry[0].split("/")[0] == "b"]
    assert whole != content(augment(crystals(), EVERYTHING, seed=8))


def test_nothing_leaks_into_another_part_of_the_split():
    wanted = AugmentationSettings(
        keep_originals=False, substitution={"copies": 20}, test=0.3, validation=0.3
    )
    made = list(augment(crystals(), wanted, seed=1))
    free = alter(crystals()[0], "substitution", wanted, rng())
    shares = SplitFractions(0.3, 0.3)
    parents = {item.identifier: part_of(item.reduced_formula, shares) for item in crystals()}
    assert made
    for one in made:
        assert part_of(one.reduced_formula, shares) == parents[one.identifier.split("/")[0]]
    assert len({part_of(one.reduced_formula, shares) for one in free}) > 1


def test_copies_are_kept_on_average():
    item = labelled(caesium_chloride())
    wanted = AugmentationSettings(strain={"copies": 0.3})
    made = [len(alter(item, "strain", wanted, generator)) for generator in [rng(4)]
            for _ in range(1000)]  # fmt: skip
    assert set(made) == {0, 1}
    assert np.mean(made) == pytest.approx(0.3, abs=0.05)


def test_with_the_defaults_nothing_is_made():
    assert content(augment(crystals(), AugmentationSettings(), 0)) == content(crystals())


@pytest.mark.parametrize(
    "wrong",
    [
        {"strain": {"amplitude": 0.5}},
        {"strain": {"copies": -1}},
        {"defect": {"kinds": []}},
        {"defect": {"kinds": ["vacancy", "vacancy"]}},
        {"defect": {"min_atoms": 30, "max_atoms": 20}},
        {"colour": 1},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValidationError):
        AugmentationSettings(**wrong)
