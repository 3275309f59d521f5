"""Identifiers, keys and seeds: everything that must be the same again, or never the same twice."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from uuid6 import uuid7


def new_id() -> str:
    """Return a new primary key: a UUIDv7 (RFC 9562), unique across machines and sortable."""
    return str(uuid7())


def canonical_json(value: Any) -> str:
    """Write a JSON value in one form only: sorted keys, no spaces, no NaN.

    Raises
    ------
    ValueError
        If the value holds NaN or an infinity, which JSON cannot express.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )


def content_hash(value: Any) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of a JSON value in canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def job_key(campaign: str, cycle: int, candidate: str, adapter: str, purpose: str) -> str:
    """Return the key under which an experiment may be submitted once and never again."""
    return content_hash(["job", campaign, cycle, candidate, adapter, purpose])


def derive_seed(root: int, *path: str | int) -> int:
    """Derive a seed for one purpose from a campaign's seed.

    The same root and path give the same seed on every machine; different paths give independent
    streams, so that a stage that runs twice, or not at all, does not shift the draws of the others.

    Returns
    -------
    int
        In [0, 2**63), so that it fits a signed 64-bit column.
    """
    digest = hashlib.sha256(canonical_json([root, *path]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
