"""Adds a LoRA adapter to a base model on disk, in memory that does not grow with the model.

The merged files are laid out as the base's. What the adapter does not touch is copied by the kernel; each changed
weight is computed in blocks of rows: in float32, rounded once to the base's type, bit for bit what PEFT's merge gives.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import (
    StageError,
    atomic_directory,
    atomic_write_json,
    in_words,
    log,
    read_json,
    require_free_space,
    sha256_file,
)
from safetensors.torch import load_file
from weights import DTYPES, Entry, WeightFile, Weights

MERGE_RECORD = "llama_tui_merge.json"
ADAPTER_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Small enough to stay in a processor's cache.
_BLOCK_VALUES = 500_000
_COPY_BYTES = 64 << 20
_NO_KERNEL_COPY = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pth", ".pt", ".gguf", ".h5", ".msgpack"}


@dataclass(frozen=True)
class Lora:
    """An adapter: {name of the base's weight: (A [r, in], B [out, r])} in float32, and its scale alpha / r."""

    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]
    scale: float
    fingerprint: str

    def delta(self, name: str, first: int, last: int) -> torch.Tensor:
        """What is added to rows first to last of a weight, in float32."""
        a, b = self.pairs[name]
        return (b[first:last] @ a).mul_(self.scale)


def load_lora(adapter_dir: Path) -> Lora:
    """Read a PEFT adapter directory; every key in it must be one half of a pair.

    Raises:
        StageError: it is missing, damaged, or of a kind that is more than W + scale * B A.
    """
    config = read_json(adapter_dir / "adapter_config.json", "model_consolidation")
    file = adapter_dir / ADAPTER_FILE
    if not file.is_file():
        raise StageError(f"missing input: {file}", "run model_consolidation first")
    _refuse_other_kinds(config, adapter_dir)
    try:
        tensors = load_file(file)
    except (OSError, ValueError, RuntimeError) as error:
        raise StageError(f"{file} is damaged: {error}", "run model_consolidation again") from None
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        module, half = _split_key(key, file)
        if not bool(torch.isfinite(tensor).all()):
            raise StageError(
                f"{file}: {key} has values that are no numbers", "look at the training's metrics"
            )
        halves.setdefault(f"{module}.weight", {})[half] = tensor.float()
    alone = sorted(name for name, pair in halves.items() if len(pair) != 2)
    if alone:
        raise StageError(
            f"{file}: {alone[0]} has only one of lora_A and lora_B", "run model_consolidation again"
        )
    rank = config["r"]
    scale = config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
    pairs = {name: (pair["A"], pair["B"]) for name, pair in halves.items()}
    return Lora(pairs, scale, sha256_file(file))


def _split_key(key: str, file: Path) -> tuple[str, str]:
    for half in "AB":
        ending = f".lora_{half}.weight"
        if key.startswith(_PREFIX) and key.endswith(ending):
            return key[len(_PREFIX) : -len(ending)], half
    raise StageError(f"{file}: {key} is not part of a LoRA of linear layers", "it cannot be merged here")


def _refuse_other_kinds(config: dict[str, Any], adapter_dir: Path) -> None:
    odd = [
        name
        for name in (
            "use_dora",
            "lora_bias",
            "modules_to_save",
            "rank_pattern",
            "alpha_pattern",
            "fan_in_fan_out",
        )
        if config.get(name)
    ]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or odd:
        why = ", ".join(odd) or f"type {config.get('peft_type')}, bias {config.get('bias')}"
        raise StageError(f"{adapter_dir} is an adapter with {why}", "only plain LoRA can be merged here")


def lora_change(adapter_dir: Path) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """For StreamedLlama: the weights of base + adapter, in float32 and not rounded."""
    lora = load_lora(adapter_dir)

    def change(name: str, weight: torch.Tensor) -> torch.Tensor:
        return weight + lora.delta(name, 0, weight.shape[0]) if name in lora.pairs else weight

    return change


def merge(model_dir: Path, adapter_dir: Path, merged_dir: Path) -> dict[str, Any]:
    """Write base + adapter to `merged_dir`, which gets its name when complete; gives its record.

    Raises:
        StageError: an input is missing or damaged, the adapter does not fit the base, or the disk is full.
    """
    base, lora = Weights(model_dir, "download_model"), load_lora(adapter_dir)
    _check_fit(base, lora, model_dir)
    record = {
        "base": str(model_dir),
        "base_fingerprint": base_fingerprint(model_dir),
        "adapter_fingerprint": lora.fingerprint,
        "scale": lora.scale,
        "changed_tensors": len(lora.pairs),
        "tensors": len(base.entries),
        "bytes": sum(file.path.stat().st_size for file in base.files),
    }
    if _is_there(merged_dir, record):
        log(f"{merged_dir} is complete, of the same base and adapter: used again")
        return record
    require_free_space(merged_dir, int(record["bytes"] * 1.01), "the merged model")
    with atomic_directory(merged_dir) as partial, _one_thread():
        for number, file in enumerate(base.files, 1):
            log(
                f"merging file {number} of {len(base.files)}: {file.path.name} ({in_words(file.path.stat().st_size)})"
            )
            merge_file(file, partial / file.path.name, lora)
        copy_other_files(model_dir, partial)
        atomic_write_json(partial / MERGE_RECORD, record)
    return record


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The blocks are small: threads that wait for each other on a busy machine cost twenty times what they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _is_there(merged_dir: Path, record: dict[str, Any]) -> bool:
    if not (merged_dir / MERGE_RECORD).is_file():
        return False
    found = read_json(merged_dir / MERGE_RECORD, "merge_lora_weights")
    names = ("base_fingerprint", "adapter_fingerprint", "bytes")
    size = sum(path.stat().st_size for path in merged_dir.glob("*.safetensors"))
    return all(found.get(name) == record[name] for name in names) and size == record["bytes"]


def base_fingerprint(model_dir: Path) -> str:
    """What identifies the base model: a hash of the checksums that download_model took of its files."""
    marker = read_json(model_dir / ".complete", "download_model")
    digests = sorted((name, file["sha256"]) for name, file in marker.get("files", {}).items())
    return hashlib.sha256(repr(digests).encode()).hexdigest()


def _check_fit(base: Weights, lora: Lora, model_dir: Path) -> None:
    """Every pair of the adapter must have its weight in the base, of fitting shape."""
    for name, (a, b) in lora.pairs.items():
        entry = base.entries.get(name)
        if entry is None:
            raise StageError(
                f"the adapter changes {name}, which {model_dir} does not have",
                "is it the base that was trained?",
            )
        if entry.shape != (b.shape[0], a.shape[1]) or entry.dtype not in DTYPES:
            raise StageError(
                f"the adapter's {name} is {b.shape[0]} x {a.shape[1]}, the base's is {entry.dtype} {entry.shape}",
                "is it the base that was trained?",
            )


def merge_file(file: WeightFile, target: Path, lora: Lora) -> None:
    """Write one weight file with the adapter added to the tensors that it changes; the layout stays the same."""
    changed = [entry for name, entry in file.entries.items() if name in lora.pairs]
    names = {id(entry): name for name, entry in file.entries.items()}
    with file.path.open("rb", buffering=0) as source, target.open("wb", buffering=0) as out:
        position = 0
        for entry in changed:
            copy_range(source.fileno(), out.fileno(), position, entry.begin)
            _write_changed(source.fileno(), out.fileno(), names[id(entry)], entry, lora)
            position = entry.end
        copy_range(source.fileno(), out.fileno(), position, file.path.stat().st_size)


def _write_changed(source: int, out: int, name: str, entry: Entry, lora: Lora) -> None:
    rows, columns = entry.shape
    dtype = DTYPES[entry.dtype]
    row_bytes = (entry.end - entry.begin) // rows
    step = max(1, _BLOCK_VALUES // columns)
    for first in range(0, rows, step):
        last = min(rows, first + step)
        begin = entry.begin + first * row_bytes
        weight = torch.frombuffer(_read_range(source, begin, (last - first) * row_bytes), dtype=dtype)
        merged = weight.float().reshape(last - first, columns).add_(lora.delta(name, first, last)).to(dtype)
        _write_range(out, memoryview(merged.view(torch.uint8).numpy()).cast("B"), begin)


def _read_range(descriptor: int, begin: int, length: int) -> bytearray:
    data = bytearray(length)
    done = 0
    while done < length:
        got = os.preadv(descriptor, [memoryview(data)[done:]], begin + done)
        if not got:
            raise StageError("the base model's file ended early", "run download_model again")
        done += got
    return data


def _write_range(descriptor: int, data: memoryview, begin: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], begin + done)


def copy_range(source: int, out: int, begin: int, end: int) -> None:
    """Copy bytes begin to end to the same place of another file, inside the kernel where it can."""
    copiers: list[Callable[[int, int, int, int], int]] = [
        _copy_in_kernel,
        _copy_by_sendfile,
        _copy_through_memory,
    ]
    while begin < end:
        try:
            copied = copiers[0](source, out, begin, min(_COPY_BYTES, end - begin))
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY or len(copiers) == 1:
                raise
            del copiers[0]
            continue
        if not copied:
            raise StageError("the base model's file ended early", "run download_model again")
        begin += copied


def _copy_in_kernel(source: int, out: int, begin: int, length: int) -> int:
    return os.copy_file_range(source, out, length, begin, begin)


def _copy_by_sendfile(source: int, out: int, begin: int, length: int) -> int:
    os.lseek(out, begin, os.SEEK_SET)
    return os.sendfile(out, source, begin, length)


def _copy_through_memory(source: int, out: int, begin: int, length: int) -> int:
    return os.pwrite(out, os.pread(source, min(length, 8 << 20), begin), begin)


def copy_other_files(model_dir: Path, target: Path) -> None:
    """Tokenizer, configurations and the index: all that is no weights file."""
    for path in sorted(model_dir.iterdir()):
        if path.is_file() and not path.name.startswith(".") and path.suffix not in _WEIGHT_SUFFIXES:
            shutil.copyfile(path, target / path.name)
