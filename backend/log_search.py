"""Finds lines in a log of any size, where the log is: this file is also sent to the host and run there.

    python3 -c SOURCE find PATH NEEDLE      {"count": lines that hold it, "offsets": where the last of them begin}
    python3 -c SOURCE error PATH            the same for the first line that looks like an error

One file, Python 3.8, standard library. What is searched is what a person sees: colours are skipped, and what a
carriage return overwrote is gone. Offsets are in bytes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

PIECE = 1024 * 1024
# Of a line that goes on and on, so much is looked at as one.
LONGEST_LINE = 16 * 1024 * 1024
# What is looked through at once: small enough for the processor's cache, which makes it three times as fast.
BLOCK = 256 * 1024
MOST_OFFSETS = 20_000
# Every error line holds one of these; looking for them first is what makes a big log fast.
_MARKS = (b"Error: ", b"Exception: ", b"Traceback (most recent call last)", b"error:", b"ERROR", b"FAILED")
_ERROR = re.compile(
    rb"^error:|\bTraceback \(most recent call last\)|\b(?:[A-Z]\w*Error|Exception)\b: |^\s*ERROR\b|FAILED$"
)
_SEQUENCE = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?")


def shown(data: bytes) -> bytes:
    """Lines as a terminal shows them in the end; as many lines as before."""
    data = _uncoloured(data)
    if b"\r" in data:
        data = b"\n".join(settled(line) for line in data.split(b"\n"))
    return data


def settled(line: bytes) -> bytes:
    """One line without what carriage returns overwrote."""
    line = line.rstrip(b"\r")
    return line[line.rfind(b"\r") + 1 :]


def looks_like_error(line: bytes) -> bool:
    """Whether a line (as shown) is one to look at first."""
    return any(mark in line for mark in _MARKS) and _ERROR.search(line) is not None


def find_lines(data: bytes, needle: bytes) -> list[int]:
    """Where the lines begin that hold the needle; ASCII letters match either case."""
    if not needle or b"\n" in needle or b"\r" in needle:
        return []
    found: list[int] = []
    needle = needle.lower()
    for offset, block in _blocks(data):
        clean = _uncoloured(block.lower())
        hits = list(_visible(clean, needle))
        if hits:
            found += [offset + start for start in _line_starts(block, clean, hits)]
    return found


def first_error(data: bytes) -> int | None:
    """Where the first line begins that looks like an error; None where there is none."""
    for offset, block in _blocks(data):
        clean = _uncoloured(block)
        hits = [at for at in (_error_at(clean, mark) for mark in _MARKS) if at >= 0]
        if hits:
            return offset + _line_starts(block, clean, [min(hits)])[0]
    return None


def _uncoloured(data: bytes) -> bytes:
    return _SEQUENCE.sub(b"", data) if b"\x1b" in data else data


def _blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Whole lines, some at once, each time with their offset."""
    at = 0
    while at < len(data):
        end = data.rfind(b"\n", at, at + BLOCK) + 1 or data.find(b"\n", at + BLOCK) + 1 or len(data)
        yield at, data[at:end]
        at = end


def _visible(clean: bytes, needle: bytes) -> Iterator[int]:
    """Offsets of the needle, one for each line that holds it where no carriage return overwrote it."""
    at = clean.find(needle)
    while at >= 0:
        end = clean.find(b"\n", at)
        if end < 0:
            end = len(clean)
        overwritten = clean[at:end].rstrip(b"\r").rfind(b"\r")
        if overwritten < 0:
            yield at
            at = clean.find(needle, end)
        else:
            at = clean.find(needle, at + overwritten + 1)


def _error_at(clean: bytes, mark: bytes) -> int:
    """The offset of the first mark that makes its line look like an error; -1 where there is none."""
    for at in _visible(clean, mark):
        end = clean.find(b"\n", at)
        line = clean[clean.rfind(b"\n", 0, at) + 1 : end if end >= 0 else None]
        if looks_like_error(settled(line)):
            return at
    return -1


def _line_starts(data: bytes, clean: bytes, hits: list[int]) -> list[int]:
    """Where in `data` the lines begin that are hit at these offsets of `clean`, the same lines without colours."""
    if len(clean) == len(data):
        return [data.rfind(b"\n", 0, hit) + 1 for hit in hits]
    begins = list(accumulate((len(line) + 1 for line in data.split(b"\n")), initial=0))
    starts: list[int] = []
    number = at = 0
    for hit in hits:
        number += clean.count(b"\n", at, hit)
        at = hit
        starts.append(begins[number])
    return starts


def pieces(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The file in pieces of whole lines (or of a part of an endless one), each with its offset."""
    offset, rest = 0, b""
    while True:
        data = stream.read(PIECE)
        if not data:
            break
        data = rest + data
        cut = data.rfind(b"\n", len(rest)) + 1
        if not cut and len(data) > LONGEST_LINE:
            cut = len(data)
        rest = data[cut:]
        if cut:
            yield offset, data[:cut]
            offset += cut
    if rest:
        yield offset, rest


def search(path: str, needle: bytes | None) -> dict[str, object]:
    """The answer for a whole file: the lines that hold the needle, or without one the first error."""
    count = 0
    offsets: list[int] = []
    with Path(path).open("rb") as stream:
        for offset, data in pieces(stream):
            if needle is None:
                start = first_error(data)
                if start is not None:
                    return {"count": 1, "offsets": [offset + start]}
                continue
            found = find_lines(data, needle)
            count += len(found)
            offsets = (offsets + [offset + start for start in found])[-MOST_OFFSETS:]
    return {"count": count, "offsets": offsets}


def main(arguments: list[str]) -> None:
    """Prints the answer as JSON."""
    path = arguments[1]
    needle = arguments[2].encode("utf-8", "surrogateescape") if arguments[0] == "find" else None
    print(json.dumps(search(path, needle)))


if __name__ == "__main__":
    main(sys.argv[1:])
