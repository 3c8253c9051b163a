"""A window of a log: bytes in, lines out, whatever the pieces and whatever is in them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_tui.backend.live import MOST_WAITING, LogInbox, LogRead
from llama_tui.backend.log_search import find_lines, first_error
from llama_tui.backend.log_window import LogWindow

HOSTILE = b"\x1b[2J\x1b]52;c;ZXZpbA==\x07\x00\x9b31m\xff\xfe[red]\x1b[31mred\x1b[0m\r\x1b]0;x\x1b\\done\n"
CONTENT = st.binary(max_size=300) | st.lists(
    st.sampled_from([b"\n", b"\r", b"a", b"\x1b[31m", "é".encode(), b"error: "])
).map(b"".join)


def lines_of(window: LogWindow) -> list[str]:
    return [window.line(index) for index in range(window.line_count)]


@given(CONTENT, st.lists(st.integers(0, 300)))
def test_pieces_make_no_difference(data: bytes, cuts: list[int]) -> None:
    whole, pieces = LogWindow(), LogWindow()
    whole.append(data)
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        if cut >= at:
            pieces.append(data[at:cut])
            at = cut
    assert lines_of(whole) == lines_of(pieces)
    assert whole.line_count == data.count(b"\n") + (not data.endswith(b"\n") and data != b"")


@given(CONTENT, st.integers(0, 300))
def test_what_is_put_before_is_as_if_it_had_been_there(data: bytes, cut: int) -> None:
    cut = data.rfind(b"\n", 0, cut) + 1
    whole, window = LogWindow(), LogWindow()
    whole.append(data)
    window.clear(cut)
    window.append(data[cut:])
    added, _ = window.prepend(data[:cut], 0)
    assert lines_of(window) == lines_of(whole)
    assert added == data[:cut].count(b"\n")


def test_a_cut_first_line_is_left_out_of_what_is_put_before() -> None:
    window = LogWindow()
    window.clear(100)
    window.append(b"three\n")
    assert window.prepend(b"half a line\none\ntwo\n", 80)[0] == 2
    assert lines_of(window) == ["one", "two", "three"]
    assert window.start == 92


@pytest.mark.parametrize("line", [b"x" * 99 + b"\n", b"y" * 10_000])
def test_memory_is_bounded_and_offsets_stay_true(line: bytes) -> None:
    window = LogWindow(kept=5000)
    total = 0
    for _ in range(100):
        window.append(line)
        total += len(line)
        window.trim_front()
        assert window.end == total
        assert window.end - window.start <= 5000
    assert window.line_count == (50 if b"\n" in line else 1)
    assert window.offset(0) == window.start


def test_trimming_the_end_keeps_whole_lines() -> None:
    window = LogWindow(kept=1000)
    window.append((b"z" * 99 + b"\n") * 30)
    assert window.trim_back() == 20
    assert window.end == 1000
    window.append(b"next\n")
    assert window.line(10) == "next"


def test_a_progress_bar_without_line_ends_shows_its_latest_state() -> None:
    window = LogWindow()
    for percent in range(101):
        window.append(f"\r{percent:3}%|{'#' * (percent // 10)}".encode())
        assert window.line_count == 1
        assert window.line(0) == f"{percent:3}%|{'#' * (percent // 10)}"
    window.append(b"\r\n")
    assert lines_of(window) == ["100%|##########"]


def test_hostile_text_is_harmless_and_colours_stay() -> None:
    window = LogWindow()
    window.append(HOSTILE + b"\x1b[32mok\x1b[0m\x1b[5;5H\n")
    assert lines_of(window) == ["done", "\x1b[32mok\x1b[0m"]


def test_lines_are_found_as_they_are_shown() -> None:
    data = b"50% loss\r100% done\n\x1b[31mlo\x1b[0mss 3\nLOSS and loss\nthe end"
    found = [data[offset:].split(b"\n")[0] for offset in find_lines(data, b"Loss")]
    assert found == [b"\x1b[31mlo\x1b[0mss 3", b"LOSS and loss"]
    assert find_lines(data, b"end") == [data.index(b"the end")]
    assert find_lines(data, b"no such thing") == []


@pytest.mark.parametrize(
    "line",
    [
        b"error: no room",
        b"Traceback (most recent call last):",
        b"  torch.OutOfMemoryError: x",
        b"ERROR x",
        b"tests FAILED",
        b"10%\r\x1b[31merror: late\x1b[0m",
    ],
)
def test_the_first_error_is_found(line: bytes) -> None:
    before = b"no error here\nerrors: 0\n"
    assert first_error(before + line + b"\nerror: second\n") == len(before)
    assert first_error(before) is None


def test_a_burst_of_50_000_lines_costs_little() -> None:
    """At most a tenth of a second of work for what a second brings; on a busy machine some times that."""
    window, lines = (
        LogWindow(),
        b"".join(b"step %06d loss 1.234 lr 1e-4 %s\n" % (i, b"." * 70) for i in range(1000)),
    )
    began = time.process_time()
    for _ in range(50):
        window.append(lines)
        window.trim_front()
    assert time.process_time() - began < 0.8


def test_the_inbox_is_bounded_and_tells_once() -> None:
    inbox = LogInbox()
    assert inbox.put(LogRead("/l", "first", 0, fresh=True))
    piece = "x" * (MOST_WAITING // 8)
    assert not any(inbox.put(LogRead("/l", piece, 5 + n * len(piece), fresh=False)) for n in range(20))
    taken = inbox.take()
    assert sum(len(one.text) for one in taken) <= MOST_WAITING
    assert taken[0].fresh
    assert taken[-1].start == 5 + 19 * len(piece)
    assert inbox.take() == []
    assert inbox.put(LogRead("/l", "again", 0, fresh=False))
