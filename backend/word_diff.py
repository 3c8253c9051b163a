"""Which words of two texts differ: for marking them where the texts stand side by side."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

# Longer texts than this (words on both sides) are not compared: the time grows with the square.
MOST_WORDS = 6000


@dataclass(frozen=True)
class Piece:
    """A part of a text; `changed` where the other side has something else."""

    text: str
    changed: bool


@dataclass(frozen=True)
class WordDiff:
    """Both texts in pieces; joined, the pieces of a side are its text.

    Attributes:
        shared: the part of all words, 0 to 1, that both sides have in the same order.
    """

    left: tuple[Piece, ...]
    right: tuple[Piece, ...]
    shared: float


def word_diff(left: str, right: str) -> WordDiff:
    """Compares word by word; blanks and line breaks never count as a difference."""
    ours, theirs = _tokens(left), _tokens(right)
    if not ours and not theirs:
        return WordDiff((), (), 1.0)
    if len(ours) + len(theirs) > MOST_WORDS:
        return WordDiff((Piece(left, left != right),), (Piece(right, left != right),), float(left == right))
    matcher = SequenceMatcher(None, [word for word, _ in ours], [word for word, _ in theirs], autojunk=False)
    same_left, same_right = [False] * len(ours), [False] * len(theirs)
    for block in matcher.get_matching_blocks():
        for step in range(block.size):
            same_left[block.a + step] = same_right[block.b + step] = True
    return WordDiff(_pieces(ours, same_left), _pieces(theirs, same_right), matcher.ratio())


def _tokens(text: str) -> list[tuple[str, str]]:
    """(word, the word with what stands between it and the next). What comes before the first word is dropped."""
    return [(found[1], found[0]) for found in re.finditer(r"(\S+)\s*", text)]


def _pieces(tokens: list[tuple[str, str]], same: list[bool]) -> tuple[Piece, ...]:
    """Neighbours of one kind joined; blanks after a changed word are no part of the change."""
    pieces: list[Piece] = []
    for (word, whole), kept in zip(tokens, same, strict=True):
        _add(pieces, word, not kept)
        _add(pieces, whole[len(word) :], False)
    return tuple(pieces)


def _add(pieces: list[Piece], text: str, changed: bool) -> None:
    if not text:
        return
    if pieces and pieces[-1].changed is changed:
        pieces[-1] = Piece(pieces[-1].text + text, changed)
    else:
        pieces.append(Piece(text, changed))
