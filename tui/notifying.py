"""Tells a person who looks elsewhere: the terminal's bell, and a notification of the desktop."""

from __future__ import annotations

import os
from typing import Any

from textual.app import App

from llama_tui.backend.plain import printable

LONGEST = 200


def sequences(title: str, words: str, tmux: bool) -> str:
    """The escape sequences for a desktop notification: OSC 777 (title and text) and OSC 9 (text).

    Terminals take the one that they know and skip the other. Inside tmux they are passed through to its terminal.
    """
    title, words = _tame(title), _tame(words)
    each = [f"\x1b]777;notify;{title};{words}\x07", f"\x1b]9;{title}: {words}\x07"]
    if tmux:
        each = ["\x1bPtmux;" + one.replace("\x1b", "\x1b\x1b") + "\x1b\\" for one in each]
    return "".join(each)


def _tame(words: str) -> str:
    """One line without what ends a sequence or divides its fields."""
    return " ".join(printable(words).replace(";", ",").split())[:LONGEST]


def tell_terminal(app: App[Any], title: str, words: str) -> None:
    """Rings the bell and asks the terminal for a notification."""
    app.bell()
    driver = app._driver
    if driver is not None:
        driver.write(sequences(title, words, "TMUX" in os.environ))
        driver.flush()
