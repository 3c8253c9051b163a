"""Checkpoints of stage 3: written whole or not at all, found again, and pruned.

The layout is optimum-neuron's own. The CPU back end writes the adapter in shards too, one from each process, cut by
the tensor-parallel rule: lora_B of the layers that widen (q, k, v, gate, up) by rows, lora_A of those that narrow
(o, down) by columns, the rest alike on all ranks. So stage 4 joins real shards with the same code on both stacks.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import (
    StageError,
    atomic_write_json,
    atomic_write_text,
    fsync_tree,
    log,
    read_json,
    replace_directory,
    sha256_file,
)
from consolidate import Adapter, consolidate
from shard_files import HINT, ShardError
from shards import ADAPTER_DIR, SHARDS_DIR, find_shards, write_manifest

RESUME_FILE = "resume.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_CUT_ROWS = re.compile(r"\.(q_proj|k_proj|v_proj|gate_proj|up_proj)\.lora_B\.weight$")
_CUT_COLUMNS = re.compile(r"\.(o_proj|down_proj)\.lora_A\.weight$")


@dataclass(frozen=True)
class Found:
    """A checkpoint that is whole: every shard was read and joined."""

    path: Path
    adapter: Adapter

    @property
    def step(self) -> int:
        """Steps of training that it holds."""
        return self.adapter.step


@dataclass(frozen=True)
class Group:
    """The processes that write a checkpoint together; `barrier` waits for all of them."""

    rank: int
    size: int
    barrier: Callable[[], None]


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds. `random` is this process's own, the rest is the same on all."""

    step: int
    adapter: dict[str, torch.Tensor]
    config: dict[str, Any]
    trainer_state: dict[str, Any]
    optimizer: dict[str, Any]
    random: torch.Tensor
    fingerprint: dict[str, Any]


def all_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint directories, newest first, complete or not."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: -int(path.name.rsplit("-", 1)[1]))


def newest_complete(folder: Path, say: Callable[[str], None] = log, resumable: bool = False) -> Found | None:
    """The newest checkpoint that can be used; a damaged or unfinished one is told of and passed over.

    With `resumable`, what the CPU back end needs to go on (optimizer, random state) must be whole as well.
    """
    for path in all_checkpoints(folder):
        try:
            adapter = consolidate(find_shards(path))
            if resumable:
                _check_resume_files(path)
        except ShardError as error:
            say(f"passing over {path.name}: {error.message}")
            continue
        return Found(path, adapter)
    return None


def save(folder: Path, snapshot: Snapshot, group: Group) -> Path:
    """Write checkpoint-N, all processes together; it gets its name when all of it is on disk."""
    target = folder / f"checkpoint-{snapshot.step}"
    partial = folder / f"{target.name}.partial"
    shards_dir = partial / ADAPTER_DIR / SHARDS_DIR
    if group.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        (shards_dir / "model").mkdir(parents=True)
    group.barrier()
    dims = {name: _cut(name, tensor, group.size) for name, tensor in snapshot.adapter.items()}
    parts = group.size if any(dim is not None for dim in dims.values()) else 1
    if group.rank < parts:
        shard = {name: _part(tensor, dims[name], group) for name, tensor in snapshot.adapter.items()}
        torch.save(shard, shards_dir / "model" / f"dp_rank_00_tp_rank_{group.rank:02d}_pp_rank_00.pt")
    torch.save(snapshot.random, partial / f"rng_state_{group.rank}.pt")
    group.barrier()
    if group.rank == 0:
        _finish(partial, snapshot, dims, parts)
        replace_directory(partial, target)
    group.barrier()
    return target


def _cut(name: str, tensor: torch.Tensor, size: int) -> int | None:
    """The dimension along which a parameter is cut, where it divides evenly; None for alike on all ranks."""
    dim = 0 if _CUT_ROWS.search(name) else 1 if _CUT_COLUMNS.search(name) else None
    return dim if size > 1 and dim is not None and tensor.shape[dim] % size == 0 else None


def _part(tensor: torch.Tensor, dim: int | None, group: Group) -> torch.Tensor:
    """This rank's part, in memory of its own: torch.save would write the whole tensor behind a view."""
    part = tensor if dim is None else tensor.chunk(group.size, dim=dim)[group.rank]
    return part.detach().clone().contiguous()


def _finish(partial: Path, snapshot: Snapshot, dims: dict[str, int | None], parts: int) -> None:
    adapter_dir = partial / ADAPTER_DIR
    shards_dir = adapter_dir / SHARDS_DIR
    atomic_write_json(adapter_dir / "adapter_config.json", snapshot.config)
    described = {
        re.sub(r"\.(lora_(?:embedding_)?[AB])(?=\.|$)", r".\1.default", name): _metadata(dim, parts)
        for name, dim in dims.items()
    }
    metadata = {"parameters": described, "model_weight_transformation_specs": []}
    atomic_write_json(shards_dir / "mp_metadata_pp_rank_0.json", metadata)
    torch.save(snapshot.optimizer, partial / "optimizer.pt")
    atomic_write_json(partial / "trainer_state.json", snapshot.trainer_state)
    files = {path.name: sha256_file(path) for path in sorted(partial.glob("*.pt"))}
    atomic_write_json(
        partial / RESUME_FILE, {"step": snapshot.step, "files": files, "fingerprint": snapshot.fingerprint}
    )
    write_manifest(partial, snapshot.step)
    atomic_write_text(shards_dir / "checkpoint", "1")
    fsync_tree(partial)
    atomic_write_text(shards_dir / "done", "1")


def _metadata(dim: int | None, parts: int) -> dict[str, Any]:
    if dim is None:
        return {"tensor_model_parallel": False}
    return {
        "tensor_model_parallel": True,
        "partition_dim": dim,
        "partition_stride": 1,
        "num_partitions": parts,
    }


def _check_resume_files(checkpoint: Path) -> None:
    try:
        recorded = read_json(checkpoint / RESUME_FILE, "finetune")["files"]
    except StageError as error:
        raise ShardError(error.message, HINT) from None
    for name, digest in recorded.items():
        file = checkpoint / name
        if not file.is_file() or sha256_file(file) != digest:
            raise ShardError(f"{file} is missing or damaged", HINT)


def check_fingerprint(checkpoint: Path, wanted: dict[str, Any]) -> None:
    """Raise StageError when the checkpoint was trained with other settings: going on would mix the two."""
    file = checkpoint / RESUME_FILE
    saved = read_json(file, "finetune").get("fingerprint", {}) if file.is_file() else {}
    for name, value in saved.items():
        if name in wanted and wanted[name] != value:
            raise StageError(
                f"{checkpoint} was trained with {name} {value}, the settings now say {wanted[name]}",
                f"begin a new run for other settings, or move {checkpoint.parent} away to train from the start",
            )


def load_resume_state(checkpoint: Path, rank: int) -> tuple[dict[str, Any], torch.Tensor]:
    """(the optimizer's state, this process's random state) of a checkpoint that `newest_complete` gave."""
    optimizer = torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
    random_state = torch.load(checkpoint / f"rng_state_{rank}.pt", map_location="cpu", weights_only=True)
    return optimizer, random_state


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints that carry `done` (0 keeps all), and what a killed save left."""
    for partial in folder.glob("checkpoint-*.partial*"):
        shutil.rmtree(partial, ignore_errors=True)
    if keep <= 0:
        return
    done = [path for path in all_checkpoints(folder) if (path / ADAPTER_DIR / SHARDS_DIR / "done").is_file()]
    for path in done[keep:]:
        shutil.rmtree(path, ignore_errors=True)
