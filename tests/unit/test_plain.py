"""Foreign text on the screen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llama_tui.backend.plain import printable, settled


def test_sequences_that_act_are_removed() -> None:
    hostile = "a\x1b[2Jb\x1b]0;title\x07c\x1b]52;c;ZXZpbA==\x1b\\d\x1bP+q\x1b\\e\x9b31mf\x00g\x07"
    assert printable(hostile) == "abcdefg"


def test_colours_are_kept_where_asked_for() -> None:
    assert printable("\x1b[31mred\x1b[0m", colours=True) == "\x1b[31mred\x1b[0m"
    assert printable("\x1b[31mred\x1b[0m") == "red"


def test_odd_bytes_become_question_marks() -> None:
    assert printable(b"\xff\xfeok".decode("utf-8", "surrogateescape")) == "??ok"


def test_a_progress_bar_shows_its_last_state() -> None:
    assert settled("  0%\r 50%\r100%") == "100%"
    assert settled("100%\r") == "100%"
    assert settled("plain") == "plain"


@given(st.text())
def test_nothing_that_acts_is_left(text: str) -> None:
    shown = printable(text)
    assert "\x1b" not in shown
    assert all(char in "\n\t\r" or ord(char) >= 32 for char in shown)
    shown.encode("utf-8")
