"""Records of a data set: read from a file in any of the usual forms, checked, and split."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import StageError

if TYPE_CHECKING:
    from collections.abc import Iterable

FIELDS = ("instruction", "context", "response", "category")
# Other data sets' names for the same things: Alpaca's, and plain prompt/completion.
_ALSO = {
    "input": "context",
    "output": "response",
    "prompt": "instruction",
    "question": "instruction",
    "completion": "response",
    "answer": "response",
}
_HINT = "the data set needs the fields instruction and response (context is optional), as databricks-dolly-15k has"

Record = dict[str, str]


def read_records(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl, .csv or .parquet file.

    Raises:
        StageError: the file is missing, of another kind, or damaged; the message names the line.
    """
    if not path.is_file():
        raise StageError(f"there is no data set file {path}", "check model.dataset in the settings")
    readers = {".jsonl": _read_jsonl, ".json": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise StageError(f"{path} is not a .jsonl, .csv or .parquet file", _HINT)
    try:
        return reader(path)
    except UnicodeDecodeError as error:
        raise StageError(f"{path} is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise StageError(
                    f"{path}, line {number} is not JSON: {error}", "one JSON object a line is wanted"
                ) from None
            if not isinstance(row, dict):
                raise StageError(
                    f"{path}, line {number} is not a JSON object", "one JSON object a line is wanted"
                )
            rows.append(row)
    return rows


def _read_csv(path: Path) -> list[dict[str, Any]]:
    csv.field_size_limit(1 << 28)
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            return list(csv.DictReader(file))
        except csv.Error as error:
            raise StageError(f"{path} is not a readable CSV file: {error}", _HINT) from None


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise StageError(f"{path} is not a readable parquet file: {error}", _HINT) from None
    return rows


def normalised(rows: Iterable[dict[str, Any]], source: str) -> list[Record]:
    """The rows in dolly's schema; rows without an instruction or a response are left out.

    Raises:
        StageError: the fields are not there or hold no text, or nothing is left.
    """
    rows = list(rows)
    if not rows:
        raise StageError(f"the data set {source} has no records", _HINT)
    names = set(rows[0])
    known = {_ALSO.get(name, name) for name in names}
    missing = [field for field in ("instruction", "response") if field not in known]
    if missing:
        found = ", ".join(sorted(map(str, names)))[:300]
        raise StageError(
            f"the data set {source} has no field {' or '.join(missing)}; its fields are: {found}", _HINT
        )
    records = [_record(row, number, source) for number, row in enumerate(rows, 1)]
    kept = [record for record in records if record["instruction"].strip() and record["response"].strip()]
    if not kept:
        raise StageError(f"no record of {source} has both an instruction and a response", _HINT)
    return kept


def _record(row: dict[str, Any], number: int, source: str) -> Record:
    record = dict.fromkeys(FIELDS, "")
    for name, value in row.items():
        field = name if name in FIELDS else _ALSO.get(name)
        if field and value is not None and not record[field]:
            if isinstance(value, (dict, list, bytes)):
                raise StageError(
                    f"record {number} of {source}: {name} holds a {type(value).__name__}, where text is wanted",
                    _HINT,
                )
            # Half of a surrogate pair, which JSON can hold, has no place in a text file.
            record[field] = str(value).encode("utf-8", "replace").decode("utf-8")
    return record


def split(records: list[Record], held_out: int, seed: int) -> tuple[list[Record], list[Record]]:
    """(records to train on, held-out ones); the same seed gives the same split.

    Raises:
        StageError: too few records.
    """
    if len(records) <= held_out:
        raise StageError(
            f"the data set has {len(records)} usable records: too few to hold out {held_out}",
            "lower model.held_out, or take a larger data set",
        )
    order = list(range(len(records)))
    random.Random(seed).shuffle(order)
    held = set(order[:held_out])
    train = [record for index, record in enumerate(records) if index not in held]
    return train, [records[index] for index in sorted(held)]


def write_jsonl(path: Path, records: list[Record]) -> None:
    """One JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
