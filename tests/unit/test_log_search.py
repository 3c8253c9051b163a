"""The search that runs where the log is."""

from __future__ import annotations

import importlib.resources
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama_tui.backend import log_search
from llama_tui.backend.hosts.local import LocalHost
from llama_tui.backend.link import Link
from llama_tui.backend.log_file import LogFile


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "it's a log; $(x).log"
    lines = [f"line {number} {'.' * 60}" for number in range(20_000)]
    lines[7_000] = "RuntimeError: far inside"
    lines[15_000] = "50% needle\r100% nothing"
    for number in range(0, 20_000, 1000):
        lines[number] += " Needle"
    file.write_text("\n".join(lines))
    return file


def test_pieces_are_whole_lines(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_search, "PIECE", 1000)
    found = list(log_search.pieces(io.BytesIO(log.read_bytes())))
    assert b"".join(data for _, data in found) == log.read_bytes()
    assert all(data.endswith(b"\n") for _, data in found[:-1])
    assert log_search.search(str(log), b"needle")["count"] == 20


def test_a_line_longer_than_a_piece_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_search, "PIECE", 100)
    data = b"short\n" + b"10%\r" * 200 + b"all\nend"
    assert list(log_search.pieces(io.BytesIO(data)))[1] == (6, b"10%\r" * 200 + b"all\n")
    monkeypatch.setattr(log_search, "LONGEST_LINE", 300)
    assert b"".join(piece for _, piece in log_search.pieces(io.BytesIO(data))) == data


# What logs are made of, and what may stand in the middle of a word.
PARTS = [b"a", b"B", b"ab", b" ", b"\n", b"\r", b"\r\n", b"\x1b[31m", b"\x1b[0m", b"\x1b]0;ab\x07", b"\x1b[K"]
PARTS += [
    b"\x1b]8;;x\r\x1b\\",
    b"\x1b",
    b"[",
    b"Error: ",
    b"Runtime",
    b"ERROR",
    b"FAILED",
    b"error:",
    b"Exception: ",
]
PARTS += [b"Traceback (most recent call last)", b"\xff", "é".encode()]
LOGS = st.lists(st.sampled_from(PARTS), max_size=60).map(b"".join)


def slowly(data: bytes, holds: Callable[[bytes], object]) -> list[int]:
    """Line by line, each as a terminal shows it: what the fast search has to find as well."""
    starts, at = [], 0
    for line in data.split(b"\n"):
        seen = re.sub(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?", b"", line)
        seen = seen.rstrip(b"\r").split(b"\r")[-1]
        if holds(seen):
            starts.append(at)
        at += len(line) + 1
    return starts


@given(LOGS, st.lists(st.sampled_from(PARTS[:4]), min_size=1, max_size=3).map(b"".join), st.integers(1, 40))
@example(b"a\x1b[31mb\n\x1b[0mxx\nab\rcd\ncd\rab\r\n", b"AB", 5)
@settings(max_examples=400)
def test_it_finds_what_a_slow_search_finds(data: bytes, needle: bytes, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_search, "BLOCK", block)
        found = log_search.find_lines(data, needle)
        first = log_search.first_error(data)
    assert found == slowly(data, lambda seen: needle.lower() in seen.lower())
    assert ([] if first is None else [first]) == slowly(data, log_search._ERROR.search)[:1]


def test_it_runs_alone_on_any_python(log: Path) -> None:
    source = importlib.resources.files("llama_tui.backend").joinpath("log_search.py").read_text()
    argv = [sys.executable, "-I", "-S", "-c", source, "error", str(log)]
    answer = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    at = answer["offsets"][0]
    assert log.read_bytes()[at:].startswith(b"RuntimeError: far inside")


def test_through_the_agent_by_offset(log: Path) -> None:
    link = Link(LocalHost(), sys.executable)
    try:
        file = LogFile(link, sys.executable, str(log))
        hits = file.find("NEEDLE")
        assert hits.count == len(hits.offsets) == 20
        piece = file.read(hits.offsets[3], 20)
        assert piece.data.startswith(b"line 3000 ")
        assert piece.size == log.stat().st_size
        assert file.first_error() is not None
        assert file.find("not there").count == 0
        copy = io.BytesIO()
        assert file.fetch(copy) == 0
        assert copy.getvalue().decode() == log.read_text().replace("50% needle\n", "")
    finally:
        link.close()
