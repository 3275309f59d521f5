"""Databases that speak OPTIMADE, the common interface of materials databases (v1).

Evans et al., Digital Discovery 3, 1509 (2024); the specification is at
https://specification.optimade.org. pymatgen's own client logs failures and goes on, so a query that
broke off half-way looks complete; here a failure is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field

from matterloop.adapters.sources.crystal import NotACrystalError, as_labels, plain_crystal
from matterloop.loop.dataset import LABEL_UNITS, LabelledStructure
from matterloop.loop.errors import UsageError
from matterloop.loop.sources import SourceError, Unreadable

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from requests import Session

_GEOMETRY = (
    "lattice_vectors",
    "cartesian_site_positions",
    "species",
    "species_at_sites",
    "dimension_types",
    "structure_features",
)
_USELESS_FEATURES = ("disorder", "unknown_positions", "site_attachments", "implicit_atoms")

PROVIDER_FIELDS: Mapping[str, Mapping[str, str]] = {
    "materialsproject.org": {
        "formation_energy": "_mp_stability.gga_gga+u.formation_energy_per_atom",
        "energy_above_hull": "_mp_stability.gga_gga+u.energy_above_hull",
    },
    "alexandria.icams.rub.de": {
        "formation_energy": "_alexandria_formation_energy_per_atom",
        "energy_above_hull": "_alexandria_hull_distance",
        "band_gap": "_alexandria_band_gap",
    },
    "oqmd.org": {
        "formation_energy": "_oqmd_delta_e",
        "energy_above_hull": "_oqmd_stability",
        "band_gap": "_oqmd_band_gap",
    },
    "optimade.odbx.science": {
        "formation_energy": "_odbx_thermodynamics.formation_energy",
        "energy_above_hull": "_odbx_thermodynamics.hull_distance",
    },
    "jarvis.nist.gov": {
        "formation_energy": "_jarvis_formation_energy_peratom",
        "energy_above_hull": "_jarvis_ehull",
    },
}
"""Where the hosts that are known keep labels, eV/atom and eV; dots lead into nested values."""


class OptimadeSettings(BaseModel):
    """Settings of `Optimade`.

    Attributes
    ----------
    url
        Base URL of a database, with or without ``/v1`` and ``/structures``, or one of pymatgen's
        short names for providers: ``alexandria``, ``cod``, ``mp``, ``oqmd``, ...
    filter
        OPTIMADE filter, ``elements HAS ALL "Li","S" AND nsites<=20``.
    labels
        Label to the provider's response field, dots for nested values; beyond `PROVIDER_FIELDS`.
    limit
        Entries asked for at most; None for all.
    page_limit
        Entries per page.
    timeout_s
        Seconds without an answer until a request is given up.
    retries
        Further attempts at a request that the server was too busy for (429, 502, 503, 504) or that
        got no connection.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    filter: str = ""
    labels: Mapping[str, str] = Field(default_factory=dict)
    limit: int | None = Field(default=None, ge=1)
    page_limit: int = Field(default=100, ge=1, le=10_000)
    timeout_s: float = Field(default=60.0, gt=0)
    retries: int = Field(default=3, ge=0, le=10)


class Optimade:
    """Behind `matterloop.loop.sources.StructureSource`."""

    Settings = OptimadeSettings
    aliases: ClassVar[tuple[str, ...]] = ()
    suffixes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: OptimadeSettings, workshop: object = None) -> None:
        if unknown := settings.labels.keys() - LABEL_UNITS.keys():
            raise UsageError(
                f"OPTIMADE was asked for the label(s) {', '.join(sorted(unknown))}.",
                f"one of {', '.join(LABEL_UNITS)}",
            )
        self._settings = settings
        self._url = _endpoint(settings.url)
        host = urlsplit(self._url).hostname or ""
        known = (
            f for name, f in PROVIDER_FIELDS.items() if host == name or host.endswith(f".{name}")
        )
        self._fields: Mapping[str, str] = {**next(known, {}), **settings.labels}

    @staticmethod
    def parse_address(rest: str) -> dict[str, Any]:
        """See `StructureSource`: ``https://host/path?filter=...`` or ``oqmd?filter=...``.

        ``limit``, ``page_limit``, ``timeout_s`` and ``retries`` may follow the filter by ``&``.
        """
        url, _, query = rest.partition("?")
        return {"url": url, **dict(parse_qsl(query, keep_blank_values=True))}

    def read(self) -> Iterator[LabelledStructure | Unreadable]:
        """See `StructureSource`: page by page, in the order of the provider.

        Raises
        ------
        SourceError
            If the provider cannot be reached, refuses, or breaks the specification.
        """
        host = urlsplit(self._url).hostname or self._url
        for entry in islice(self._entries(), self._settings.limit):
            yield _entry(entry, host, self._fields)

    def _entries(self) -> Iterator[Mapping[str, Any]]:
        wanted = [*_GEOMETRY, *sorted({path.split(".")[0] for path in self._fields.values()})]
        page = min(self._settings.page_limit, self._settings.limit or self._settings.page_limit)
        query = {"response_fields": ",".join(wanted), "page_limit": str(page)}
        if self._settings.filter:
            query["filter"] = self._settings.filter
        url: str | None = f"{self._url}?{urlencode(query)}"
        seen: set[str] = set()
        with _session(self._settings.retries) as session:
            while url is not None:
                if url in seen:
                    raise SourceError(f"{self._url} sends the page {url} again and again.")
                seen.add(url)
                answer = self._get(session, url)
                entries = answer.get("data")
                if not isinstance(entries, list):
                    raise SourceError(f"{url} gave no list of entries.", "an OPTIMADE v1 answer")
                yield from (e for e in entries if isinstance(e, Mapping))
                url = _next_page(url, answer)

    def _get(self, session: Session, url: str) -> Mapping[str, Any]:
        from requests import RequestException

        try:
            response = session.get(url, timeout=self._settings.timeout_s)
        except RequestException as error:
            raise SourceError(
                f"{self._url} cannot be reached: {type(error).__name__}: {error}.",
                remedy="check the network and the URL, or try again later",
            ) from None
        try:
            answer = response.json()
        except ValueError:
            answer = None
        answer = answer if isinstance(answer, Mapping) else {}
        if response.status_code != 200 or "errors" in answer:
            raise SourceError(
                f"{self._url} refused with HTTP status {response.status_code}:"
                f" {_details(answer) or response.reason or 'no reason given'}.",
                remedy="check the filter and the URL, or try again later",
            )
        return answer


def from_entry(attributes: Mapping[str, Any]) -> Structure:
    """Build the crystal of a ``structures`` entry.

    Raises
    ------
    NotACrystalError
        If it is no ordered crystal, periodic in three directions, with all its atoms known.
    """
    from pymatgen.core import Lattice, Structure

    features = [f for f in attributes.get("structure_features") or () if f in _USELESS_FEATURES]
    if features:
        raise NotACrystalError(f"it has {', '.join(features)}")
    if list(attributes.get("dimension_types") or (1, 1, 1)) != [1, 1, 1]:
        raise NotACrystalError("it is not periodic in three directions")
    missing = [name for name in _GEOMETRY[:4] if not attributes.get(name)]
    if missing:
        raise NotACrystalError(f"{', '.join(missing)} is not given")
    try:
        symbols = {kind["name"]: list(kind["chemical_symbols"]) for kind in attributes["species"]}
        chosen = [symbols[name] for name in attributes["species_at_sites"]]
        if any(len(kinds) != 1 for kinds in chosen):
            raise NotACrystalError("it has partially occupied sites")
        if unknown := {kinds[0] for kinds in chosen} & {"X", "vacancy"}:
            raise NotACrystalError(f"it has sites with {', '.join(sorted(unknown))}")
        return plain_crystal(
            Structure(
                Lattice(attributes["lattice_vectors"]),
                [kinds[0] for kinds in chosen],
                attributes["cartesian_site_positions"],
                coords_are_cartesian=True,
            )
        )
    except NotACrystalError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotACrystalError(f"{type(error).__name__}: {error}") from None


def _entry(
    entry: Mapping[str, Any], host: str, fields: Mapping[str, str]
) -> LabelledStructure | Unreadable:
    identifier = str(entry.get("id", "?"))
    attributes = entry.get("attributes")
    if not isinstance(attributes, Mapping):
        return Unreadable(identifier, "it has no attributes")
    try:
        structure = from_entry(attributes)
        known = {label: _nested(attributes, path) for label, path in fields.items()}
        labels = dict(as_labels(known, structure))
    except NotACrystalError as error:
        return Unreadable(identifier, str(error))
    if "energy_above_hull" in labels:
        # OQMD measures stable phases against the hull without them, which gives below zero.
        labels["energy_above_hull"] = max(0.0, float(labels["energy_above_hull"]))
    return LabelledStructure(structure, labels, host, identifier)


def _nested(attributes: Mapping[str, Any], path: str) -> Any:
    value: Any = attributes
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _endpoint(url: str) -> str:
    if "://" not in url:
        from pymatgen.ext.optimade import OptimadeRester

        aliases = OptimadeRester.aliases
        if url not in aliases:
            raise UsageError(
                f"There is no OPTIMADE provider {url!r}.",
                f"an http(s) URL, or one of {', '.join(sorted(aliases))}",
            )
        url = aliases[url]
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url!r} is no URL of an OPTIMADE database.", "http(s)://host/path")
    path = parts.path.rstrip("/").removesuffix("/structures").removesuffix("/v1")
    return urlunsplit((parts.scheme, parts.netloc, f"{path}/v1/structures", "", ""))


def _next_page(url: str, answer: Mapping[str, Any]) -> str | None:
    links = answer.get("links")
    link = links.get("next") if isinstance(links, Mapping) else None
    if isinstance(link, Mapping):
        link = link.get("href")
    if not link:
        return None
    following = urljoin(url, str(link))
    if urlsplit(following).scheme not in ("http", "https"):
        raise SourceError(f"{url} leads on to {following!r}.", "an http(s) link")
    return following


def _details(answer: Mapping[str, Any]) -> str:
    errors = answer.get("errors")
    found = [e for e in errors if isinstance(e, Mapping)] if isinstance(errors, list) else []
    return "; ".join(str(e.get("detail") or e.get("title") or "") for e in found)[:500]


def _session(retries: int) -> Session:
    from requests import Session
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    again = Retry(
        total=retries,
        backoff_factor=1.0,
        status_forcelist=(429, 502, 503, 504),
        raise_on_status=False,
    )
    session = Session()
    session.headers["User-Agent"] = "matterloop"
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=again))
    return session
