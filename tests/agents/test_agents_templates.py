"""The template library: built-in prototypes and a user's own files."""

import gzip

import pytest
from pymatgen.core import Lattice, Structure

from matterloop.agents.generator.templates import (
    aflow_templates,
    interchanges,
    library_sha256,
    read_templates,
)
from matterloop.loop.errors import UsageError


@pytest.fixture
def rock_salt():
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )


def by_id(prefix):
    return next(t for t in aflow_templates() if t.template_id.startswith(prefix))


def test_the_library_holds_the_288_prototypes_under_distinct_names():
    library = aflow_templates()
    assert len(library) == len({t.template_id for t in library}) == 288
    assert library_sha256(library) == library_sha256(aflow_templates())
    assert library_sha256(library[1:]) != library_sha256(library)


def test_prototype_cells_are_primitive():
    reducible = [
        t.template_id
        for t in aflow_templates()
        if len(t.structure.get_primitive_structure()) < t.n_atoms
    ]
    assert reducible == []


def test_enargite_is_there_with_its_counts():
    enargite = by_id("AB3C4_oP16_31_a_ab_2ab")
    assert dict(zip(enargite.elements, enargite.counts, strict=True)) == {"Cu": 6, "As": 2, "S": 8}


def test_decorating_replaces_every_site_and_keeps_the_cell():
    template = by_id("AB2_cF12_225_a_c/CaF2")
    filled = template.decorate(tuple({"Ca": "S", "F": "Li"}[e] for e in template.elements))
    assert filled.composition.reduced_formula == "Li2S"
    assert filled.lattice == template.structure.lattice


@pytest.mark.parametrize(
    ("template_id", "expected"),
    [
        ("AB_cF8_225_a_b/NaCl", 2),  # rock salt: its sites are interchangeable
        ("AB_cP2_221_b_a/CsCl", 2),
        ("AB_hP4_194_c_a/NiAs", 1),  # octahedral against trigonal prismatic
        ("AB2_cF12_225_a_c/CaF2", 1),  # different counts
        ("ABC_cF12_216_b_c_a/MgAgAs", 2),  # half-Heusler: the two outer sites, not the centre
    ],
)
def test_interchangeable_sites(template_id, expected):
    found = interchanges(by_id(template_id))
    assert len(found) == expected
    assert found[0] == tuple(range(len(found[0])))


def test_a_users_files_become_primitive_templates(tmp_path, rock_salt):
    cif = rock_salt.to(fmt="cif")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "magnesia.cif").write_text(cif)
    table = tmp_path / "known.csv.gz"
    quoted = cif.replace('"', '""')
    table.write_bytes(gzip.compress(f'material_id,cif\nmp-1265,"{quoted}"\n'.encode()))
    templates = read_templates([str(tmp_path / "folder"), str(table)])
    assert [t.template_id for t in templates] == ["magnesia", "mp-1265"]
    assert [t.n_atoms for t in templates] == [2, 2]


def test_unusable_template_files_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong.csv").write_text("formula\nMgO\n")
    (tmp_path / "broken.cif").write_text("this is no crystal")
    for path, words in (
        ("absent.csv", "does not exist"),
        ("empty", "no CIF file"),
        ("wrong.csv", "has the columns"),
        ("broken.cif", "broken cannot be read"),
    ):
        with pytest.raises(UsageError, match=words):
            read_templates([tmp_path / path])
