"""Foreign text made safe to show: a job's log may hold anything."""

from __future__ import annotations

import re

# Everything that makes a terminal do something but change colours: cursor, titles, clipboard, queries.
_SEQUENCES = re.compile(
    r"\x1b\[[0-9;:]*m"  # colours: kept where asked for
    r"|\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\|$)"
    r"|\x1b[ -/]*[0-~]?"
    r"|\x9b[0-?]*[ -/]*[@-~]"
)
_CONTROL = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def printable(text: str, colours: bool = False) -> str:
    """The text without control sequences; bytes that were no UTF-8 become question marks.

    Args:
        colours: keeps the sequences that only set colours.
    """
    if "\x1b" in text or "\x9b" in text:
        text = _SEQUENCES.sub(lambda found: _kept(found[0], colours), text)
    text = _CONTROL.sub("", text)
    return text.encode("utf-8", "replace").decode("utf-8")


def one_line(text: str, most: int = 300) -> str:
    """Foreign text as one line of at most so many characters: a name, a node, a reason."""
    return " ".join(printable(text[: 4 * most]).split())[:most]


def count_of(number: float, one: str, many: str = "") -> str:
    """A number of things, as one says it: 1 node, 2 nodes, 0.5 epochs.

    Args:
        many: where it is not the same with an s.
    """
    return f"{number:,g} {one if number == 1 else many or one + 's'}"


def number_in(text: str) -> int | None:
    """The whole number that foreign text is; None where it is none, or longer than any count or time."""
    return int(text) if len(text) <= 15 and text.isascii() and text.isdecimal() else None


def _kept(sequence: str, colours: bool) -> str:
    return sequence if colours and sequence.startswith("\x1b[") and sequence.endswith("m") else ""


def settled(line: str) -> str:
    """A line as a terminal shows it in the end: what a carriage return overwrote is gone."""
    if "\r" not in line:
        return line
    parts = [part for part in line.split("\r") if part]
    return parts[-1] if parts else ""
