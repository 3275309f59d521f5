"""OPTIMADE against a real server that speaks it: pages, odd entries, refusals, silence."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from matterloop.adapters.sources.optimade import PROVIDER_FIELDS, from_entry
from matterloop.loop.errors import UsageError
from matterloop.loop.sources import ReadingReport, SourceError, open_source, read_structures

ROCK_SALT = [[0, 2.82, 2.82], [2.82, 0, 2.82], [2.82, 2.82, 0]]


def entry(identifier, symbols=("Na", "Cl"), **changed):
    """An entry as the specification (v1.2) gives it for the requested response fields."""
    attributes = {
        "lattice_vectors": ROCK_SALT,
        "cartesian_site_positions": [[0, 0, 0], [2.82, 2.82, 2.82]],
        "species": [
            {"name": name, "chemical_symbols": [name], "concentration": [1.0]}
            for name in dict.fromkeys(symbols)
        ],
        "species_at_sites": list(symbols),
        "dimension_types": [1, 1, 1],
        "structure_features": [],
    }
    return {"id": identifier, "type": "structures", "attributes": {**attributes, **changed}}


MIXED = [{"name": "M", "chemical_symbols": ["Na", "K"], "concentration": [0.5, 0.5]},
         {"name": "Cl", "chemical_symbols": ["Cl"], "concentration": [1.0]}]  # fmt: skip
ENTRIES = [
    entry("1", _toy_gap=8.5, _toy_thermo={"hull": {"distance": -0.02}}),
    entry("2", ("K", "Cl"), _toy_gap=None),
    entry("disordered", species=MIXED, species_at_sites=["M", "Cl"]),
    entry("flagged", structure_features=["disorder"]),
    entry("layer", dimension_types=[1, 1, 0]),
    entry("unplaced", cartesian_site_positions=None),
    entry("odd", species_at_sites=["Na", "Xx"]),
    entry("vacancy", ("Na", "vacancy")),
    entry("nan", lattice_vectors=[[None, 0, 0], [0, 1, 0], [0, 0, 1]]),
    entry("nine", ("Li", "F"), _toy_gap=9.0),
]


class Provider(BaseHTTPRequestHandler):
    """Serves `ENTRIES` page by page under ``/db/v1/structures``; other paths misbehave."""

    requests: list  # set per server

    def do_GET(self):
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.requests.append((parts.path, query))
        if parts.path == "/db/v1/structures":
            self._page(query)
        elif parts.path == "/loop/v1/structures":
            self._answer(200, {"data": [], "links": {"next": self.path}})
        elif parts.path == "/elsewhere/v1/structures":
            link = {"href": "file:///etc/passwd"}
            self._answer(200, {"data": [ENTRIES[0]], "links": {"next": link}})
        elif parts.path == "/busy/v1/structures":
            first = len(self.requests) == 1
            self._answer(503 if first else 200, {"data": ENTRIES[:1], "links": {"next": None}})
        elif parts.path == "/text/v1/structures":
            self._answer(200, "<html>welcome</html>")
        elif parts.path == "/empty/v1/structures":
            self._answer(200, {"data": [], "meta": {"more_data_available": False}})
        else:
            self._answer(404, {"errors": [{"status": "404", "detail": "no such endpoint"}]})

    def _page(self, query):
        if "nonsense" in query.get("filter", ""):
            detail = "filter: unexpected token 'nonsense'"
            self._answer(400, {"errors": [{"status": "400", "title": "Bad", "detail": detail}]})
            return
        offset, size = int(query.get("page_offset", 0)), min(int(query["page_limit"]), 4)
        wanted = query["response_fields"].split(",")
        chosen = [
            {**e, "attributes": {k: v for k, v in e["attributes"].items() if k in wanted}}
            for e in ENTRIES[offset : offset + size]
        ]
        more = offset + size < len(ENTRIES)
        base = f"http://{self.headers['Host']}/db/v1/structures"
        given = "&".join(f"{name}={query[name]}" for name in ("response_fields", "page_limit"))
        link = f"{base}?page_offset={offset + size}&{given}" if more else None
        # The specification allows both forms of a link.
        links = {"next": {"href": link} if link and offset else link}
        meta = {"data_returned": len(ENTRIES), "more_data_available": more, "api_version": "1.2.0"}
        self._answer(200, {"data": chosen, "links": links, "meta": meta})

    def _answer(self, status, content):
        body = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.api+json")
        self.send_header("Content-Length", str(len(body.encode())))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Handler", (Provider,), {"requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.url = f"http://127.0.0.1:{running.server_address[1]}"
        running.seen = handler.requests
        yield running
        running.shutdown()
        thread.join()


LABELS = {"band_gap": "_toy_gap", "energy_above_hull": "_toy_thermo.hull.distance"}


def test_all_pages_are_read_and_odd_entries_named(server):
    report = ReadingReport()
    address = f'optimade:{server.url}/db?filter=elements HAS "Cl" AND nelements>=2'
    items = list(read_structures(address, report=report, settings={"labels": LABELS}))
    assert [item.identifier for item in items] == ["1", "2", "nine"]
    assert len(server.seen) == 3
    path, query = server.seen[0]
    assert path == "/db/v1/structures"
    assert query["filter"] == 'elements HAS "Cl" AND nelements>=2'
    assert "_toy_thermo" in query["response_fields"].split(",")
    assert {bad.identifier: bad.reason for bad in report.unreadable} == {
        "disordered": "it has partially occupied sites",
        "flagged": "it has disorder",
        "layer": "it is not periodic in three directions",
        "unplaced": "cartesian_site_positions is not given",
        "odd": "KeyError: 'Xx'",
        "vacancy": "it has sites with vacancy",
        "nan": report.unreadable[-1].reason,
    }


def test_crystals_and_labels_are_those_of_the_entry(server):
    first, second, third = read_structures(
        f"{server.url}/db/v1/structures", settings={"labels": LABELS}
    )
    assert first.structure.composition.reduced_formula == "NaCl"
    assert first.structure.get_distance(0, 1) == pytest.approx(2.82)
    # Below the hull of all others is on the hull.
    assert (first.labels["band_gap"], first.labels["energy_above_hull"]) == (8.5, 0.0)
    assert first.labels["density"] == pytest.approx(2.16, abs=0.02)
    assert set(second.labels) == {"density"}
    assert third.labels["band_gap"] == 9.0
    assert first.source == "127.0.0.1"


def test_no_more_is_asked_for_than_the_limit(server):
    items = list(read_structures(f"optimade:{server.url}/db?limit=2"))
    assert [item.identifier for item in items] == ["1", "2"]
    assert [query["page_limit"] for _, query in server.seen] == ["2"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/db?filter=nonsense", "HTTP status 400: filter: unexpected token 'nonsense'"),
        ("/nowhere", "HTTP status 404: no such endpoint"),
        ("/text", "no list of entries"),
        ("/loop", "again and again"),
        ("/elsewhere", "leads on to 'file:///etc/passwd'"),
    ],
)
def test_a_provider_that_refuses_or_misbehaves_is_one_clear_error(server, path, said):
    with pytest.raises(SourceError, match=said.replace("?", r"\?")):
        list(read_structures(f"optimade:{server.url}{path}"))


def test_a_busy_provider_is_asked_again(server):
    (item,) = read_structures(f"optimade:{server.url}/busy?retries=1")
    assert item.identifier == "1"
    assert len(server.seen) == 2


def test_a_busy_provider_is_not_asked_for_ever(server):
    with pytest.raises(SourceError, match="HTTP status 503"):
        list(read_structures(f"optimade:{server.url}/busy?retries=0"))


def test_no_network_is_one_clear_error():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(SourceError, match="cannot be reached"):
            list(read_structures(f"optimade:{url}?retries=0&timeout_s=5"))


def test_nothing_found_is_said(server):
    with pytest.raises(UsageError, match="no crystal that can be read"):
        list(read_structures(f"optimade:{server.url}/empty"))


def test_known_providers_bring_their_own_labels():
    source = open_source("optimade:oqmd?filter=nelements=1")
    assert source._url == "https://oqmd.org/optimade/v1/structures"  # no request was made
    assert source._fields == PROVIDER_FIELDS["oqmd.org"]


def test_sites_of_one_species_may_share_its_description():
    attributes = entry("x", ("Fe", "Fe"))["attributes"]
    assert len(attributes["species"]) == 1
    assert from_entry(attributes).composition.formula == "Fe2"
