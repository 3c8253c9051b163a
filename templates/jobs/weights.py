"""Reads the safetensors of a model directory, whether they are one file or several with an index."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import StageError

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: `begin` and `end` are byte positions in its file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class WeightFile:
    """One safetensors file: its header as written, where its data begins, and its tensors in the order they lie."""

    path: Path
    header: dict[str, Any]
    data_start: int
    entries: dict[str, Entry]


def read_weight_file(path: Path) -> WeightFile:
    """Read a safetensors header, nothing more.

    Raises:
        StageError: the file is cut short, or no safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 0 < length <= min(_LONGEST_HEADER, size):
            raise _damaged(path, "it has no header")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise _damaged(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no JSON object")
    start = 8 + length
    entries = {}
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        entries[name] = _entry(path, name, tensor, start, size)
    return WeightFile(path, header, start, dict(sorted(entries.items(), key=lambda item: item[1].begin)))


def _entry(path: Path, name: str, tensor: Any, start: int, size: int) -> Entry:
    """Where a tensor lies. What a header says is believed only where its parts agree with each other."""
    try:
        dtype, shape, (begin, end) = str(tensor["dtype"]), tuple(tensor["shape"]), tensor["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise _damaged(path, f"its header does not say where {name} lies") from None
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)) or end < begin:
        raise _damaged(path, f"its header says nonsense of {name}")
    if start + end > size:
        raise _damaged(path, f"{name} lies beyond its end")
    if dtype in DTYPES and end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        raise _damaged(path, f"{name} has not the size of its shape")
    return Entry(path, dtype, shape, start + begin, start + end)


def _damaged(path: Path, why: str) -> StageError:
    return StageError(
        f"{path} is damaged or incomplete: {why}", "remove the directory and run download_model again"
    )


def weight_files(folder: Path, made_by: str) -> list[WeightFile]:
    """The safetensors files that make up a model; with an index, those that it names.

    Raises:
        StageError: there are none, one is missing, or a tensor is not where the index says.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = _weight_map(index, made_by)
        files = [_checked(folder / name, made_by) for name in sorted(set(named.values()))]
        have = {name: file.path.name for file in files for name in file.entries}
        lost = sorted(name for name, file in named.items() if have.get(name) != file)
        if lost:
            raise StageError(f"{folder}: {lost[0]} is not where the index says", f"run {made_by} again")
        return files
    single = folder / "model.safetensors"
    found = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    if not found:
        raise StageError(f"missing input: {single}", f"run {made_by} first")
    return [read_weight_file(path) for path in found]


def _weight_map(index: Path, made_by: str) -> dict[str, str]:
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        whole = all(Path(name).name == name and name.endswith(".safetensors") for name in named.values())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise StageError(f"{index} does not name safetensors beside it", f"run {made_by} again")
    return dict(named)


def _checked(path: Path, made_by: str) -> WeightFile:
    if not path.is_file():
        raise StageError(f"missing input: {path}, which the index names", f"run {made_by} again")
    return read_weight_file(path)


class Weights:
    """The tensors of a model directory by name, read when asked for."""

    def __init__(self, folder: Path, made_by: str) -> None:
        self.files = weight_files(folder, made_by)
        self.entries = {name: entry for file in self.files for name, entry in file.entries.items()}
        self._folder = folder

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def rows(self, name: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Rows of a tensor (all of them by default) in their own dtype.

        Raises:
            StageError: there is no such tensor, or it is of a type that no Llama is trained in.
        """
        entry = self.entries.get(name)
        if entry is None or entry.dtype not in DTYPES:
            what = "there is no" if entry is None else f"the type {entry.dtype} cannot be used for"
            raise StageError(f"{self._folder}: {what} {name}", "is it a Llama in bf16, fp16 or fp32?")
        last = entry.shape[0] if last is None else last
        row_bytes = (entry.end - entry.begin) // max(1, entry.shape[0])
        data = bytearray((last - first) * row_bytes)
        with entry.file.open("rb", buffering=0) as file:
            file.seek(entry.begin + first * row_bytes)
            if _read_all(file, data) != len(data):
                raise _damaged(entry.file, f"{name} is cut short")
        shape = (last - first, *entry.shape[1:])
        return torch.frombuffer(data, dtype=DTYPES[entry.dtype]).reshape(shape)


def _read_all(file: Any, data: bytearray) -> int:
    view, done = memoryview(data), 0
    while done < len(data):
        got = file.readinto(view[done:])
        if not got:
            break
        done += got
    return done


def dtype_of(weights: Weights) -> str:
    """The safetensors name of the dtype in which most of the model's bytes are."""
    sizes: dict[str, int] = {}
    for entry in weights.entries.values():
        sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.end - entry.begin
    return max(sizes, key=lambda name: sizes[name])
