"""A look at a data set before anything is launched: its first records as the model will see them, and how long all are."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from llama_tui.backend.errors import RunError
from llama_tui.backend.plain import printable
from llama_tui.backend.settings import SHIPPED_DATASET, Settings
from llama_tui.backend.site import Site

READ_LIMIT = 4 * 1024 * 1024
SHOWN = 3
BARS = 10
BAR_WIDTH = 40
# How bytes that are no UTF-8 come over the agent's wire.
_NO_TEXT = re.compile("[\udc80-\udcff]")
# Also known to templates/jobs/records.py, which reads the data set for real.
_INSTRUCTION = ("instruction", "prompt", "question")
_CONTEXT = ("context", "input")
_RESPONSE = ("response", "output", "completion", "answer")


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: str
    words: str


@dataclass(frozen=True)
class DataLook:
    """The first records as chats, and the length of each record read, in characters.

    Attributes:
        source: the data set, as the settings name it.
        whole: whether all records were read, or only the file's beginning.
        records: how many there are; where not all were read, by the size of those that were.
    """

    source: str
    chats: tuple[tuple[Turn, ...], ...]
    lengths: tuple[int, ...]
    whole: bool
    records: int


def look_at_data(site: Site | None, settings: Settings) -> DataLook:
    """Reads the data set's beginning, on the host where it is a file there.

    Args:
        site: the connected host; None is enough for the data set that we ship.

    Raises:
        RunError: it cannot be read before it is downloaded, or has not the fields.
        HostError: the host does not answer.
    """
    source = settings.model.dataset
    if source == SHIPPED_DATASET:
        text = files("llama_tui.templates").joinpath("data/captain-chat.jsonl").read_text(encoding="utf-8")
        return _look(_rows(text, ".jsonl", whole=True), settings)
    if not source.startswith(("/", "~/")) or source.endswith(".parquet"):
        raise RunError(
            f"{source} can be looked at once it is downloaded",
            "Stage 1 checks its fields before the model's download.",
        )
    if site is None:
        raise RunError("The host is not connected", "Test the connection in the Where step.")
    path = site.absolute(source)
    piece = site.link.call("read", path=path, offset=0, limit=READ_LIMIT)
    whole = piece["size"] <= READ_LIMIT
    suffix = "." + path.rsplit(".", 1)[-1].lower()
    read = len(piece["text"].encode("utf-8", "surrogateescape"))
    return _look(_rows(piece["text"], suffix, whole), settings, 1.0 if whole else read / piece["size"])


def _rows(text: str, suffix: str, whole: bool) -> list[dict[str, Any]]:
    used = text if whole else text.rpartition("\n")[0]
    if _NO_TEXT.search(used):
        raise RunError("The data set is not UTF-8 text", "Save it as UTF-8.")
    if suffix == ".csv":
        csv.field_size_limit(READ_LIMIT)
        try:
            return list(csv.DictReader(io.StringIO(text)))
        except csv.Error as error:
            raise RunError(f"The file is no readable CSV: {error}", "Save it as CSV, or as JSONL.") from None
    # Not splitlines(): a record may hold the other characters that end a line.
    lines = text.split("\n") if whole else text.split("\n")[:-1]
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise RunError(f"Line {number} is not JSON", "A data set is one JSON object a line.") from None
        if not isinstance(row, dict):
            raise RunError(f"Line {number} is not a JSON object", "A data set is one JSON object a line.")
        rows.append(row)
    return rows


def _look(rows: list[dict[str, Any]], settings: Settings, share: float = 1.0) -> DataLook:
    """What the rows show.

    Args:
        share: of the file, that the rows are.
    """
    if not rows:
        raise RunError("The data set has no records", "Choose another file.")
    if not _first(rows[0], _INSTRUCTION) or not _first(rows[0], _RESPONSE):
        names = ", ".join(map(str, rows[0]))[:200]
        raise RunError(
            "The data set has no instruction and response", f"Its fields are: {names}. Dolly's are expected."
        )
    chats = tuple(_chat(row, settings.inference.system_prompt) for row in rows[:SHOWN])
    lengths = tuple(sum(len(turn.words) for turn in _chat(row, "")) for row in rows)
    return DataLook(settings.model.dataset, chats, lengths, share == 1.0, round(len(rows) / share))


def _first(row: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((str(row[name]) for name in names if row.get(name)), "")


def _chat(row: dict[str, Any], system: str) -> tuple[Turn, ...]:
    context = _first(row, _CONTEXT)
    user = _first(row, _INSTRUCTION) + (f"\n\n{context}" if context else "")
    turns = [Turn("system", system)] if system else []
    return (*turns, Turn("user", printable(user)), Turn("assistant", printable(_first(row, _RESPONSE))))


def look_text(look: DataLook) -> str:
    """The look as text: chats, then a histogram of lengths."""
    lines: list[str] = []
    for number, chat in enumerate(look.chats, 1):
        lines.append(f"── record {number}")
        lines += [f"{turn.role}: {turn.words}" for turn in chat]
        lines.append("")
    lines.append(f"── length of {len(look.lengths):,} records in characters (a token is about four)")
    if not look.whole:
        lines[-1] += ", of the file's first 4 MB"
    return "\n".join(lines + histogram(look.lengths))


def histogram(values: tuple[int, ...]) -> list[str]:
    """Bars of how many values lie in each of ten equal ranges."""
    low, high = min(values), max(values)
    width = max(1, -(-(high - low + 1) // BARS))
    counts = [0] * BARS
    for value in values:
        counts[min(BARS - 1, (value - low) // width)] += 1
    most = max(counts)
    return [
        f"{low + index * width:>7,} {'█' * round(BAR_WIDTH * count / most)} {count}"
        for index, count in enumerate(counts)
        if low + index * width <= high
    ]
