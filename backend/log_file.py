"""A log on the host, read by byte offset and searched where it is: 200 MB never cross the link."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import IO

from llama_tui.backend.errors import HostError
from llama_tui.backend.link import Link
from llama_tui.backend.plain import printable, settled

PIECE = 512 * 1024
BIG_PIECE = 2 * 1024 * 1024
# More than this of a log is not fetched for a pager: its end is.
MOST_FETCHED = 64 * 1024 * 1024
SEARCH_PATIENCE = 60.0


@dataclass(frozen=True)
class LogPiece:
    """A part of a log; `size` is the whole file's, in bytes."""

    data: bytes
    start: int
    size: int


@dataclass(frozen=True)
class LogHits:
    """Lines that were found: how many, and where the last of them begin (byte offsets)."""

    count: int
    offsets: tuple[int, ...]


class LogFile:
    """One log. All methods block; LinkLost and AgentError are theirs to raise.

    Args:
        python: what runs the search there.
    """

    def __init__(self, link: Link, python: str, path: str) -> None:
        self._link, self._python, self._path = link, python, path

    def read(self, offset: int, limit: int = PIECE) -> LogPiece:
        """Up to `limit` bytes from a byte offset on; a negative one counts from the end."""
        answer = self._link.call("read", path=self._path, offset=offset, limit=limit)
        data = answer["text"].encode("utf-8", "surrogateescape")
        return LogPiece(data, answer["start"], answer["size"])

    def find(self, needle: str) -> LogHits:
        """The lines that hold the text."""
        return self._search("find", needle)

    def first_error(self) -> int | None:
        """Where the first line begins that looks like an error."""
        hits = self._search("error")
        return hits.offsets[0] if hits.offsets else None

    def _search(self, *arguments: str) -> LogHits:
        what, *needle = arguments
        source = files("llama_tui.backend").joinpath("log_search.py").read_text(encoding="utf-8")
        argv = [self._python, "-c", source, what, self._path, *needle]
        result = self._link.run(argv, timeout=SEARCH_PATIENCE, env={"PYTHONIOENCODING": "utf-8"})
        if result.exit != 0:
            raise HostError(
                f"The search in {self._path} failed: {result.stderr.strip()[-300:]}",
                "Is the log still there?",
            )
        answer = json.loads(result.stdout)
        return LogHits(answer["count"], tuple(answer["offsets"]))

    def fetch(self, target: IO[bytes], tell: Callable[[int, int], None] | None = None) -> int:
        """Writes the log, made harmless, into a file of ours; gives how many bytes at its beginning were left out.

        Args:
            tell: gets the bytes read and to be read, now and then.
        """
        piece = self.read(-MOST_FETCHED, BIG_PIECE)
        first, end = piece.start, piece.size
        while piece.data:
            target.write(_harmless(piece.data))
            at = piece.start + len(piece.data)
            if tell is not None:
                tell(at - first, end - first)
            if at >= end:
                break
            piece = self.read(at, min(BIG_PIECE, end - at))
        return first


def _harmless(data: bytes) -> bytes:
    text = data.decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    if "\r" in text:
        text = "\n".join(settled(line) for line in text.split("\n"))
    return printable(text, colours=True).encode("utf-8")
