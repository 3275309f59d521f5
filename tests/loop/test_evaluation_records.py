"""Results on disk: what a kill may leave behind."""

import json

import pytest

from matterloop.loop.errors import UsageError
from matterloop.loop.evaluation.records import Records, record_key


def test_results_are_there_again(tmp_path):
    path = tmp_path / "deep" / "r.jsonl"
    records = Records(path)
    records.put("a", {"x": 1})
    records.put("a", {"x": 2})
    again = Records(path)
    assert again.get("a") == {"key": "a", "x": 2}
    assert len(again) == 1
    assert again.get("b") is None
    assert "b" not in again


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_line_cut_short_costs_one_result_only(tmp_path, cut):
    path = tmp_path / "r.jsonl"
    records = Records(path)
    records.put("a", {"x": 1})
    records.put("b", {"x": 2})
    path.write_bytes(path.read_bytes()[:-cut])
    again = Records(path)
    assert "a" in again
    assert ("b" in again) == (cut == 1)  # only the newline is missing
    again.put("c", {"x": 3})
    last = Records(path)
    assert last.get("a") == {"key": "a", "x": 1}
    assert last.get("c") == {"key": "c", "x": 3}


def test_no_nan_gets_in(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        Records(tmp_path / "r.jsonl").put("a", {"x": float("nan")})


def test_an_unreadable_file_is_no_empty_one(tmp_path):
    with pytest.raises(UsageError, match="Cannot read"):
        Records(tmp_path)


def test_keys_follow_content():
    assert record_key("a", {"x": 1, "y": 2}) == record_key("a", {"y": 2, "x": 1})
    assert record_key("a", 1) != record_key("a", 2)
    assert json.loads(json.dumps(record_key("a"))) == record_key("a")
