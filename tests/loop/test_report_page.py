"""The page: opens offline, escapes what people wrote, shows figures with units, at any moment."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import report_ledger as ledger
from pymatgen.core import Structure
from pymatgen.io.cif import CifParser
from sqlalchemy.orm import Session

from matterloop.loop.errors import CampaignNotFoundError, UsageError
from matterloop.loop.identifiers import new_id
from matterloop.loop.report import write_report

LOADING = {"src", "href", "srcset", "data", "poster", "action", "background", "xlink:href"}
SIZE_LIMIT_BYTES = 8_000_000


class Page(HTMLParser):
    """What a browser would see: tags, targets that load something, text outside of scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.words: list[str] = []
        self.scripts: dict[str, str] = {}
        self.ids: set[str] = set()
        self._script: str | None = None
        self._silent = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append(tag)
        self.ids.update(value for key, value in attrs if key == "id" and value)
        self.targets += [value or "" for key, value in attrs if key in LOADING]
        self._silent = tag in ("script", "style")
        self._script = named.get("id") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._silent, self._script = False, None

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
        elif not self._silent:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u202f", " ").split())


@pytest.fixture
def session() -> Iterator[Session]:
    engine = ledger.memory_engine()
    with Session(engine) as open_session:
        yield open_session
    engine.dispose()


def campaign(session: Session) -> ledger.LedgerBuilder:
    """Two made crystals, one that decomposed, one infeasible, one vetoed, one refused."""
    built = ledger.LedgerBuilder(session, ledger.spec(), hull_sha256="a" * 64)
    built.made(
        ledger.antifluorite("Li", "S", 5.71),
        1,
        1,
        {"energy_above_hull": (0.0012, 0.004), "bulk_modulus": (43.13, 1.24)},
        arms=("main", "random"),
    )
    built.made(
        ledger.argyrodite(),
        1,
        2,
        {"energy_above_hull": (0.028, 0.005), "bulk_modulus": (25.12, 3.7)},
        flags=("thin-hull",),
    )
    decomposed = built.candidate(2, ledger.argyrodite(10.2), screening={"energy_above_hull": 0.09})
    built.choose(decomposed, 2, 1)
    built.synthesize(
        decomposed,
        2,
        success=False,
        explanation="decomposes at 800 K",
        phases=[("Li3PS4", 0.75), ("LiCl", 0.25)],
    )
    melted = built.candidate(2, ledger.antifluorite("Li", "P", 5.9))
    built.choose(melted, 2, 1, arm="random")
    built.job(melted, 2, state="failed", failure_kind="infeasible", failure_message="it melts")
    vetoed = built.candidate(2, ledger.rock_salt("Li", "S", 5.3))
    built.choose(vetoed, 2, 2, verdict="vetoed", reason="would release H2S")
    built.candidate(
        2,
        ledger.rock_salt("P", "Cl", 5.2),
        state="refused",
        verdicts={"valid": (False, "no neutral set of charges"), "unique": (False, "a copy")},
    )
    built.fault("virtual-press", "load cell out of range")
    session.commit()
    return built


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    engine = ledger.memory_engine()
    with Session(engine) as session:
        path = tmp_path_factory.mktemp("report") / "report.html"
        written = write_report(session, campaign(session).id, path)
    engine.dispose()
    return written


@pytest.fixture(scope="module")
def page(file: Path) -> Page:
    return Page(file)


def test_nothing_is_loaded_from_outside(page: Page) -> None:
    assert page.targets
    assert [t for t in page.targets if not t.startswith(("data:", "#"))] == []
    assert not {"link", "iframe", "object", "embed", "img"} & (set(page.tags) - {"link"})
    assert page.tags.count("link") == 1  # the empty icon, so that no favicon is asked for


def test_the_page_forbids_itself_every_connection(file: Path) -> None:
    html = file.read_text("utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    assert not any("http" in value or "*" in value for value in rules.values())
    assert len(html.encode()) < SIZE_LIMIT_BYTES
    assert html.count("plotly.js v") == 1


def test_internal_links_have_their_targets(page: Page) -> None:
    links = {target[1:] for target in page.targets if target.startswith("#")}
    assert links
    assert links <= page.ids


def test_figures_stand_with_uncertainty_and_unit(page: Page) -> None:
    text = page.text
    assert "43.1 ± 1.2" in text
    assert "bulk modulus (GPa)" in text
    assert "bulk modulus 43.1 ± 1.2 GPa, by eos/test" in text
    assert "energy above hull 0.001 ± 0.004 eV/atom" in text
    assert "25 ± 4" in text
    assert "keeping energy above hull at most 0.1 eV/atom" in text


def test_winners_are_named_with_their_arms_and_flags(page: Page) -> None:
    text = page.text
    assert "main arm and control: random, cycle 1" in text
    assert "F-43m (216)" in text
    assert "thin-hull The reference hull knows few phases" in text


def test_failures_are_told_with_their_reasons(page: Page) -> None:
    text = page.text
    for words in (
        "decomposes at 800 K; phases: Li3PS4 75%, LiCl 25%",
        "it melts",
        "would release H2S",
        "no neutral set of charges",
        "load cell out of range",
    ):
        assert words in text
    assert "a copy" not in text  # counted under the first check that it failed


def test_every_step_of_the_lineage_shows_its_row(session: Session, tmp_path: Path) -> None:
    built = campaign(session)
    text = Page(write_report(session, built.id, tmp_path / "r.html")).text
    for table in (
        ledger.DecisionRow,
        ledger.ReviewRow,
        ledger.RecipeRow,
        ledger.SampleRow,
        ledger.MeasurementRow,
        ledger.JobRow,
    ):
        row = session.query(table).order_by(table.id).first()
        assert row is not None
        assert f"{table.__tablename__} {row.id}" in text


def test_cif_links_give_back_the_crystal(page: Page) -> None:
    prefix = "data:chemical/x-cif;base64,"
    texts = {
        base64.b64decode(target.removeprefix(prefix)).decode()
        for target in page.targets
        if target.startswith(prefix)
    }
    found = {s.composition.reduced_formula: s for s in map(_parse, texts)}
    assert set(found) == {"Li2S", "Li6PS5Cl"}
    wanted = ledger.argyrodite()
    assert found["Li6PS5Cl"].lattice.abc == pytest.approx(wanted.lattice.abc, abs=1e-6)
    assert len(found["Li6PS5Cl"]) == len(wanted)
    for site in wanted:
        near = [o for o in found["Li6PS5Cl"] if o.specie == site.specie and o.distance(site) < 1e-5]
        assert len(near) == 1


def _parse(text: str) -> Structure:
    return CifParser.from_str(text).parse_structures(primitive=False)[0]


def test_charts_are_valid_data(page: Page) -> None:
    charts = {name: json.loads(text) for name, text in page.scripts.items()}
    assert {"plot-progress-data", "plot-properties-data", "plot-hull-data"} <= set(charts)
    main = next(t for t in charts["plot-progress-data"]["data"] if t["name"] == "main arm")
    assert main["x"] == [1, 2, 3]
    assert sum(name.startswith("plot-crystal") for name in charts) == 2


def test_what_people_wrote_is_escaped(session: Session, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    built = ledger.LedgerBuilder(session, ledger.spec(description=evil))
    built.made(
        ledger.antifluorite("Li", "S", 5.71),
        1,
        1,
        {"energy_above_hull": (0.0, 0.004), "bulk_modulus": (43.0, 1.0)},
        flags=(evil,),
    )
    row = built.candidate(1, ledger.rock_salt("Li", "Cl", 5.1))
    built.choose(row, 1, 2, verdict="vetoed", reason=evil)
    page = Page(write_report(session, built.id, tmp_path / "r.html"))
    assert "img" not in page.tags
    assert page.text.count("<script>alert(1)</script>") >= 3
    assert page.tags.count("script") == 2 + len(page.scripts)
    assert any(evil in text for text in map(str, map(json.loads, page.scripts.values())))


def test_a_campaign_without_cycles_has_a_report(session: Session, tmp_path: Path) -> None:
    built = ledger.LedgerBuilder(session, ledger.spec(), state="created")
    page = Page(write_report(session, built.id, tmp_path / "r.html"))
    assert page.scripts == {}
    assert "No cycle has begun." in page.text
    assert "Nothing has failed so far." in page.text


def test_a_campaign_in_which_everything_failed_has_a_report(
    session: Session, tmp_path: Path
) -> None:
    built = ledger.LedgerBuilder(session, ledger.spec())
    for place, a in enumerate((5.0, 5.3), start=1):
        row = built.candidate(1, ledger.rock_salt("Li", "Cl", a))
        built.choose(row, 1, place)
        built.synthesize(row, 1, success=False, explanation=f"no product at a = {a}")
    page = Page(write_report(session, built.id, tmp_path / "r.html"))
    assert "No crystal has been made and measured" in page.text
    assert "no product at a = 5.3" in page.text
    assert "plot-progress" not in page.ids


def test_the_same_ledger_gives_the_same_file(session: Session, tmp_path: Path) -> None:
    built = campaign(session)
    first = write_report(session, built.id, tmp_path / "a" / "report.html")
    second = write_report(session, built.id, tmp_path / "b" / "report.html")
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == ["report.html"]


def test_an_unknown_campaign_is_an_error(session: Session, tmp_path: Path) -> None:
    with pytest.raises(CampaignNotFoundError):
        write_report(session, new_id(), tmp_path / "r.html")


def test_a_place_that_cannot_be_written_is_an_error(session: Session, tmp_path: Path) -> None:
    built = ledger.LedgerBuilder(session, ledger.spec())
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(session, built.id, tmp_path / "file" / "r.html")
