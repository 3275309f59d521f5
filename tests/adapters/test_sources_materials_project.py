"""The Materials Project: the query, the conversion of its documents, and what is missing."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from pymatgen.core import Lattice, Structure

from matterloop.adapters.sources.materials_project import from_summary, search_arguments
from matterloop.loop.dataset import LabelledStructure
from matterloop.loop.errors import UsageError
from matterloop.loop.sources import Unreadable, open_source, read_structures

# Shaped as the interface sends summary documents for the fields that are asked for; the structure
# as pymatgen writes it, magnetic moments included. Rock salt, rounded numbers.
SALT = {
    "material_id": "mp-22862",
    "formation_energy_per_atom": -2.1097,
    "energy_above_hull": 0.0,
    "band_gap": 5.0042,
    "symmetry": {
        "crystal_system": "Cubic",
        "symbol": "Fm-3m",
        "number": 225,
        "point_group": "m-3m",
        "symprec": 0.1,
        "version": "2.5.0",
    },
    "structure": {
        "@module": "pymatgen.core.structure",
        "@class": "Structure",
        "charge": 0,
        "lattice": {
            "matrix": [[3.4188, 0.0, 1.9738], [1.1396, 3.2233, 1.9738], [0.0, 0.0, 3.9477]],
            "pbc": [True, True, True],
            "a": 3.9477,
            "b": 3.9477,
            "c": 3.9477,
            "alpha": 60.0,
            "beta": 60.0,
            "gamma": 60.0,
            "volume": 43.50,
        },
        "properties": {},
        "sites": [
            {
                "species": [{"element": "Na", "occu": 1}],
                "abc": [0.0, 0.0, 0.0],
                "xyz": [0.0, 0.0, 0.0],
                "label": "Na",
                "properties": {"magmom": -0.0},
            },
            {
                "species": [{"element": "Cl", "occu": 1}],
                "abc": [0.5, 0.5, 0.5],
                "xyz": [2.279, 1.612, 3.948],
                "label": "Cl",
                "properties": {"magmom": 0.0},
            },
        ],
    },
}


def as_object(document):
    """The same as the client's document model gives it: attributes, a built structure."""
    fields = {**document, "structure": Structure.from_dict(document["structure"])}
    fields["symmetry"] = SimpleNamespace(**document["symmetry"])
    return SimpleNamespace(**fields)


@pytest.mark.parametrize("document", [SALT, as_object(SALT)], ids=["mapping", "object"])
def test_a_document_gives_a_plain_crystal_with_labels(document):
    item = from_summary(document)
    assert isinstance(item, LabelledStructure)
    assert (item.identifier, item.source) == ("mp-22862", "materials-project")
    assert item.structure.composition.reduced_formula == "NaCl"
    assert not item.structure.site_properties
    assert dict(item.labels) == {
        "formation_energy": -2.1097,
        "energy_above_hull": 0.0,
        "band_gap": 5.0042,
        "space_group": "225",
        "crystal_system": "cubic",
        "density": pytest.approx(2.23, abs=0.01),
    }


def test_what_a_document_does_not_tell_is_no_label():
    item = from_summary({**SALT, "band_gap": None, "symmetry": None})
    assert isinstance(item, LabelledStructure)
    assert set(item.labels) == {"formation_energy", "energy_above_hull", "density"}


def test_a_document_without_an_ordered_crystal_is_named():
    mixed = Structure(Lattice.cubic(3), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    for structure in (None, mixed):
        bad = from_summary({**SALT, "structure": structure})
        assert isinstance(bad, Unreadable)
        assert bad.identifier == "mp-22862"


def arguments(address):
    return search_arguments(open_source(address)._settings)


def test_an_address_becomes_the_query_of_the_client():
    asked = arguments("mp:chemsys=Li-S,Li-O&max_atoms=20&max_energy_above_hull=0.1")
    assert asked.pop("fields")[:2] == ["material_id", "structure"]
    assert asked == {
        "chemsys": ["Li-S", "Li-O"],
        "num_sites": (1, 20),
        "energy_above_hull": (0.0, 0.1),
        "include_gnome": False,
    }
    assert arguments("mp:elements=Li,S&exclude_elements=O&gnome=true")["include_gnome"] is True


def test_subsystems_are_all_asked_for():
    asked = arguments("materials-project:chemsys=S-Li-P&subsystems=true")["chemsys"]
    assert asked == ["Li", "Li-P", "Li-P-S", "Li-S", "P", "P-S", "S"]


def test_a_chemical_system_may_stand_alone():
    assert arguments("mp:Li-P-S-Cl")["chemsys"] == ["Li-P-S-Cl"]


def test_without_a_key_one_message_says_so(monkeypatch):
    monkeypatch.delenv("MP_API_KEY", raising=False)
    with pytest.raises(UsageError, match=r"no API key.*MP_API_KEY"):
        list(read_structures("mp:chemsys=Li-S"))


@pytest.mark.skipif(find_spec("mp_api") is not None, reason="mp-api is installed")
def test_without_the_client_one_message_says_so(monkeypatch):
    monkeypatch.setenv("MP_API_KEY", "x" * 32)
    with pytest.raises(UsageError, match="pip install mp-api"):
        list(read_structures("mp:chemsys=Li-S"))
