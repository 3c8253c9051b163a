"""Finds the adapter shards of a checkpoint and checks that they belong together.

The layout is optimum-neuron's own, for both back ends: ``checkpoint-N/adapter_default/adapter_shards`` with one
file for each tensor-parallel rank and, for each pipeline rank, metadata that says how the shards fit together.
Our ``manifest.json`` beside them (sizes and hashes at the step of the checkpoint) is used where it is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import atomic_write_json, sha256_file
from shard_files import HINT, ShardError, load_shard

ADAPTER_DIR = "adapter_default"
SHARDS_DIR = "adapter_shards"
MANIFEST = "manifest.json"

_FILE_NAME = re.compile(r"dp_rank_(\d+)_tp_rank_(\d+)_pp_rank_(\d+)\.pt")
_ADAPTER_NAME = re.compile(r"\.(lora_(?:embedding_)?[AB])\.default(?=\.|$)")
_ADAPTER_PART = re.compile(r"\.lora_(?:embedding_)?[AB](?:\.|$)")


@dataclass(frozen=True)
class Parameter:
    """How one parameter is spread over the tensor-parallel ranks: cut along ``dim``, or the same on all (None)."""

    dim: int | None


@dataclass(frozen=True)
class Fusion:
    """A layer that is several layers of the plain model: ``kind`` is optimum-neuron's name for the rule."""

    module: str
    kind: str
    values: dict[str, Any]


@dataclass(frozen=True)
class PipelineStage:
    """What one pipeline rank saved: a file per tensor-parallel rank, and the metadata that explains them.

    ``parameters`` go by the names under which they are saved.
    """

    rank: int
    files: tuple[Path, ...]
    parameters: dict[str, Parameter]
    fusions: tuple[Fusion, ...]


@dataclass(frozen=True)
class AdapterShards:
    """The shards of one checkpoint: complete in number, not yet read."""

    checkpoint: Path
    step: int
    config: dict[str, Any]
    tensor_parallel: int
    stages: tuple[PipelineStage, ...]


def find_shards(checkpoint: Path) -> AdapterShards:
    """Find the shards of every rank of ``checkpoint`` (a ``checkpoint-N`` directory).

    Raises ShardError when the checkpoint is unfinished, a rank's shard is missing, or one is of another step.
    """
    shards_dir = checkpoint / ADAPTER_DIR / SHARDS_DIR
    if not (shards_dir / "done").is_file():
        raise ShardError(f"{checkpoint} is not complete: {ADAPTER_DIR}/{SHARDS_DIR}/done is missing", HINT)
    config = _read_json(checkpoint / ADAPTER_DIR / "adapter_config.json")
    files = _files_by_rank(shards_dir / "model")
    metadata = _metadata_by_rank(shards_dir)
    size = _tensor_parallel_size(checkpoint, metadata)
    _check_ranks(checkpoint, files, set(metadata), size)
    step = _step(checkpoint)
    _check_manifest(shards_dir, step)
    stages = tuple(
        PipelineStage(
            rank=rank,
            files=tuple(files[rank][index] for index in range(size)),
            parameters=_parameters(metadata[rank]),
            fusions=_fusions(metadata[rank]),
        )
        for rank in sorted(metadata)
    )
    return AdapterShards(checkpoint, step, config, size, stages)


def load_stage(shards: AdapterShards, stage: PipelineStage) -> list[dict[str, torch.Tensor]]:
    """Read the shards of one pipeline stage, in the order of their ranks, and check that they fit together."""
    loaded = [load_shard(path) for path in stage.files]
    for rank, tensors in enumerate(loaded):
        _check_names(shards.checkpoint, rank, stage, set(tensors))
        for name, tensor in tensors.items():
            first = loaded[0][name]
            if tensor.shape != first.shape or tensor.dtype != first.dtype:
                raise ShardError(
                    f"{shards.checkpoint}: {name} is {tensor.dtype} {tuple(tensor.shape)} at rank {rank} "
                    f"and {first.dtype} {tuple(first.shape)} at rank 0",
                    HINT,
                )
    odd = _odd_rank_out(stage, loaded)
    if odd is not None:
        raise ShardError(
            f"{stage.files[odd]} is of another step: what all ranks hold alike differs in it, while the "
            f"other {len(loaded) - 1} ranks agree",
            HINT,
        )
    return loaded


def replica_difference(stage: PipelineStage, loaded: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    """The largest difference between ranks of a parameter that all ranks should hold alike.

    Consolidation takes such a parameter from rank 0: anything but zero means that training let the ranks drift
    apart. Returns ``{"max": float, "parameter": name or None, "rank": int or None}``.
    """
    worst: dict[str, Any] = {"max": 0.0, "parameter": None, "rank": None}
    for name, first in _replicas(stage, loaded[0]):
        for rank, tensors in enumerate(loaded[1:], start=1):
            difference = float((first.float() - tensors[name].float()).abs().max()) if first.numel() else 0.0
            if difference > worst["max"]:
                worst = {"max": difference, "parameter": name, "rank": rank}
    return worst


def write_manifest(checkpoint: Path, step: int) -> None:
    """Record size and SHA-256 of every shard file beside them, so that a mixed-up checkpoint is recognised.

    To be called by one process, after every rank has written its shard of step ``step``.
    """
    shards_dir = checkpoint / ADAPTER_DIR / SHARDS_DIR
    files = {
        path.relative_to(shards_dir).as_posix(): {"size": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted((shards_dir / "model").rglob("*.pt"))
    }
    atomic_write_json(shards_dir / MANIFEST, {"step": step, "files": files})


def _replicas(stage: PipelineStage, tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in tensors.items():
        if stage.parameters[name].dim is None:
            yield name, tensor


def _odd_rank_out(stage: PipelineStage, loaded: list[dict[str, torch.Tensor]]) -> int | None:
    """The one rank whose replicas differ while all the others agree, if there is one among three or more."""
    names = [name for name, _ in _replicas(stage, loaded[0])]
    ranks = range(len(loaded))

    def alike(one: int, other: int) -> bool:
        return all(torch.equal(loaded[one][name], loaded[other][name]) for name in names)

    for rank in ranks if len(loaded) >= 3 else ():
        first, *others = [other for other in ranks if other != rank]
        if not alike(rank, first) and all(alike(first, other) for other in others):
            return rank
    return None


def _files_by_rank(model_dir: Path) -> dict[int, dict[int, Path]]:
    """{pipeline rank: {tensor-parallel rank: file}} of data-parallel rank 0; the other replicas save nothing."""
    files: dict[int, dict[int, Path]] = {}
    for path in sorted(model_dir.glob("*.pt")):
        match = _FILE_NAME.fullmatch(path.name)
        if match and int(match[1]) == 0:
            files.setdefault(int(match[3]), {})[int(match[2])] = path
    return files


def _metadata_by_rank(shards_dir: Path) -> dict[int, dict[str, Any]]:
    metadata = {}
    for path in sorted(shards_dir.glob("mp_metadata_pp_rank_*.json")):
        content = _read_json(path)
        if not isinstance(content.get("parameters"), dict):
            raise ShardError(f"{path} does not describe any parameters", HINT)
        metadata[int(path.stem.rsplit("_", 1)[1])] = content
    if not metadata:
        raise ShardError(
            f"{shards_dir}/mp_metadata_pp_rank_0.json is missing: it says how the shards fit", HINT
        )
    return metadata


def _tensor_parallel_size(checkpoint: Path, metadata: dict[int, dict[str, Any]]) -> int:
    sizes = set()
    for content in metadata.values():
        sizes |= {
            int(values["num_partitions"])
            for name, values in content["parameters"].items()
            if _ADAPTER_PART.search(name) and values.get("tensor_model_parallel")
        }
        sizes |= {int(fusion.values["tp_size"]) for fusion in _fusions(content)}
    if len(sizes) > 1:
        raise ShardError(
            f"{checkpoint}: the metadata names several tensor parallel sizes: {sorted(sizes)}", HINT
        )
    return sizes.pop() if sizes else 1


def _check_ranks(checkpoint: Path, files: dict[int, dict[int, Path]], described: set[int], size: int) -> None:
    for pipeline_rank in range(max(described | set(files)) + 1):
        if pipeline_rank not in described:
            raise ShardError(f"{checkpoint}: mp_metadata_pp_rank_{pipeline_rank}.json is missing", HINT)
        found = files.get(pipeline_rank, {})
        missing = sorted(set(range(size)) - set(found))
        if missing:
            name = f"dp_rank_00_tp_rank_{missing[0]:02d}_pp_rank_{pipeline_rank:02d}.pt"
            count = f"{len(missing)} of {size} shards" if size > 1 else "the only shard"
            raise ShardError(f"{checkpoint}: missing {count}, first {name}", HINT)
        extra = sorted(set(found) - set(range(size)))
        if extra:
            name = found[extra[0]].name
            raise ShardError(
                f"{checkpoint}: {name} is one shard too many, the metadata says {size} ranks", HINT
            )


def _parameters(metadata: dict[str, Any]) -> dict[str, Parameter]:
    parameters = {}
    for name, values in metadata["parameters"].items():
        # The fused qkv weight is cut like its parts, though its metadata does not say so (optimum-neuron 0.4.5).
        parallel = values.get("tensor_model_parallel") or name.endswith("_qkv")
        dim = int(values.get("partition_dim", 0)) if parallel else None
        parameters[_ADAPTER_NAME.sub(r".\1", name)] = Parameter(dim)
    return parameters


def _fusions(metadata: dict[str, Any]) -> tuple[Fusion, ...]:
    return tuple(
        Fusion(module["module_fully_qualified_name"], kind, values)
        for module in metadata.get("model_weight_transformation_specs", [])
        for kind, values in module["specs"]
    )


def _step(checkpoint: Path) -> int:
    """The step of the checkpoint, from its name; its trainer state must say the same."""
    match = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)
    if not match:
        raise ShardError(f"{checkpoint} is not named checkpoint-N, so its step is unknown", HINT)
    step = int(match[1])
    state = checkpoint / "trainer_state.json"
    if state.is_file():
        saved = _read_json(state).get("global_step")
        if saved != step:
            raise ShardError(f"{state} is of step {saved}, its directory of step {step}", HINT)
    return step


def _check_manifest(shards_dir: Path, step: int) -> None:
    path = shards_dir / MANIFEST
    if not path.is_file():
        return
    manifest = _read_json(path)
    if manifest.get("step") != step:
        raise ShardError(f"{path} is of step {manifest.get('step')}, its directory of step {step}", HINT)
    for name, recorded in manifest["files"].items():
        file = shards_dir / name
        if not file.is_file():
            raise ShardError(f"{file} is missing", HINT)
        size = file.stat().st_size
        if size != recorded["size"]:
            raise ShardError(
                f"{file} has {size} bytes, but {recorded['size']} were written: truncated?", HINT
            )
        if sha256_file(file) != recorded["sha256"]:
            raise ShardError(
                f"{file} is not what was written at step {step}: of another step, or damaged", HINT
            )


def _check_names(checkpoint: Path, rank: int, stage: PipelineStage, found: set[str]) -> None:
    unknown = sorted(found - set(stage.parameters))
    if unknown:
        raise ShardError(
            f"{checkpoint}: rank {rank} saved {unknown[0]}, which the metadata does not know", HINT
        )
    missing = sorted(name for name in stage.parameters if _ADAPTER_PART.search(name) and name not in found)
    if missing:
        raise ShardError(f"{checkpoint}: rank {rank} did not save {missing[0]}", HINT)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ShardError(f"{path} is missing", HINT) from None
    except (OSError, ValueError) as error:
        raise ShardError(f"{path} cannot be read: {error}", HINT) from None
    if not isinstance(content, dict):
        raise ShardError(f"{path} does not hold a JSON object", HINT)
    return content
