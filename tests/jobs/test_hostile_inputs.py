"""Data sets and model directories made to do harm: refused in words, or taken as text; nothing of them is ever run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import records
from common import StageError
from hypothesis import given, settings
from hypothesis import strategies as st

DEEP = "[" * 100_000
_ODD = st.sampled_from([math.nan, math.inf, 10**400, -1, "7", "\ud800", True, None, [], {}, b"x"])
JSON = st.recursive(
    _ODD | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"instruction": ["a"], "response": "b"}\n', "record 1"),
        ("a.jsonl", b'{"instruction": "a", "response": {"x": 1}}\n', "record 1"),
        ("a.jsonl", DEEP.encode(), "line 1 is not JSON"),
        ("a.jsonl", b'{"a":' * 50_000, "line 1 is not JSON"),
        ("a.jsonl", b"9" * 100_000, "line 1 is not JSON"),
        ("a.jsonl", b"5\n", "not a JSON object"),
        ("a.jsonl", b'{"x": 1}\n', "no field"),
        ("a.jsonl", b"\xff\xfe\x00", "not UTF-8"),
        ("a.jsonl", b"\x00" * 1000, "is not JSON"),
        ("a.jsonl", b"", "no records"),
        ("a.csv", b"\xff\xfe", "not UTF-8"),
        ("a.csv", b"a,b\n1,2\n", "no field"),
        ("a.pkl", b"cos\nsystem\n(S'touch x'\ntR.", "is not a .jsonl"),
    ],
    ids=range(13),
)
def test_a_hostile_data_set_is_refused_in_words(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(StageError) as caught:
        records.normalised(records.read_records(path), str(path))
    assert words in caught.value.message
    assert len(caught.value.message) < 600


def test_long_fields_halves_of_pairs_and_odd_types_are_taken_as_text(tmp_path: Path) -> None:
    path, long = tmp_path / "a.jsonl", "é" * 20_000_000
    rows = [
        {"instruction": "\ud800 half", "response": "line\u2028end\x85", "extra": [1]},
        {"instruction": 7, "response": 1e999, "context": None},
        {"instruction": long, "response": "$(touch x) {{ 7 * 7 }} \x1b[2J"},
        {"instruction": "no answer", "response": " "},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = records.normalised(records.read_records(path), "a")
    assert [one["instruction"][:6] for one in kept] == ["? half", "7", long[:6]]
    assert kept[0]["response"] == "line\u2028end\x85"
    records.write_jsonl(tmp_path / "out.jsonl", kept)
    assert records.read_records(tmp_path / "out.jsonl") == kept


def test_a_csv_with_fields_that_are_too_long_or_too_many(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('instruction,response\n"a","' + "x" * 1_000_000 + '",more,and more\n"b"\n')
    kept = records.normalised(records.read_records(path), "a")
    assert [len(one["response"]) for one in kept] == [1_000_000]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["instruction", "output", "input", "x"]), JSON), max_size=4))
def test_any_rows_are_records_or_refused(rows: list[dict[str, Any]]) -> None:
    try:
        kept = records.normalised(rows, "here")
    except StageError:
        return
    for record in kept:
        assert set(record) == set(records.FIELDS)
        "".join(record.values()).encode()
