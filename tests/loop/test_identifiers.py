"""Keys and seeds: the same where they must be, different everywhere else."""

import math
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matterloop.loop.identifiers import (
    canonical_json,
    content_hash,
    derive_seed,
    job_key,
    new_id,
)

words = st.text(max_size=8)


def test_ids_are_sortable_by_time_and_unique():
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert all(UUID(text).version == 7 and str(UUID(text)) == text for text in ids)


@given(st.dictionaries(words, st.integers()), st.randoms(use_true_random=False))
def test_canonical_form_does_not_depend_on_the_order_of_keys(value, random):
    items = list(value.items())
    random.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(value)
    assert content_hash(dict(items)) == content_hash(value)


def test_nan_has_no_canonical_form():
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"energy": math.nan})


@given(st.tuples(words, st.integers(1, 9), words, words, words), st.data())
def test_a_job_key_changes_with_each_of_its_parts(parts, data):
    key = job_key(*parts)
    assert key == job_key(*parts)
    index = data.draw(st.integers(0, 4))
    changed = list(parts)
    changed[index] = changed[index] + 1 if index == 1 else changed[index] + "x"
    assert job_key(*changed) != key


def test_neighbouring_parts_do_not_run_together():
    assert job_key("a", 1, "bc", "d", "e") != job_key("a", 1, "b", "cd", "e")
    assert derive_seed(0, "a", "bc") != derive_seed(0, "ab", "c")


@given(st.integers(0, 2**63 - 1), st.lists(st.one_of(words, st.integers()), max_size=4))
def test_seeds_fit_a_signed_64_bit_column(root, path):
    assert 0 <= derive_seed(root, *path) < 2**63
    assert derive_seed(root, *path) != derive_seed(root, *path, "more")
