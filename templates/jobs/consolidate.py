"""Joins the adapter shards of all ranks into one plain PEFT adapter.

Plain torch, no Neuron package: it can run on any machine. Undoes what optimum-neuron does to a Llama for tensor
parallelism: parameters cut along a dimension, gate and up fused into one layer, query, key and value fused into one,
key and value heads repeated when there are fewer of them than ranks (and the query heads then put in another order).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from shard_files import HINT, ShardError
from shards import AdapterShards, Fusion, PipelineStage, load_stage, replica_difference

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter as PEFT saves it: `tensors` by names like base_model.model.model.layers.0.….lora_A.weight.

    `replica_difference` is the largest difference between ranks of what all ranks should hold alike.
    """

    tensors: Tensors
    config: dict[str, Any]
    step: int
    replica_difference: dict[str, Any]


def consolidate(shards: AdapterShards) -> Adapter:
    """Read the shards of every rank and join them.

    Raises:
        ShardError: a shard is missing, damaged, of another step, or of a form that is not known.
    """
    tensors: Tensors = {}
    worst: dict[str, Any] = {"max": 0.0, "parameter": None, "rank": None}
    for stage in shards.stages:
        loaded = load_stage(shards, stage)
        difference = replica_difference(stage, loaded)
        if difference["max"] > worst["max"]:
            worst = difference
        tensors.update(_join_stage(shards, stage, loaded))
    if not tensors:
        raise ShardError(f"{shards.checkpoint} holds no adapter weights", HINT)
    return Adapter(tensors, shards.config, shards.step, worst)


def _join_stage(shards: AdapterShards, stage: PipelineStage, loaded: list[Tensors]) -> Tensors:
    """The parameters of one pipeline stage under the plain model's names, each tensor with its own memory."""
    joined = {
        name: torch.cat([rank[name] for rank in loaded], dim=dim) if dim is not None else loaded[0][name]
        for name, dim in ((name, stage.parameters[name].dim) for name in loaded[0])
    }
    for fusion in stage.fusions:
        undo = _UNDO.get(fusion.kind)
        if undo is None:
            raise ShardError(
                f"{shards.checkpoint}: {fusion.module} was changed by {fusion.kind}, a rule that is not known here",
                "consolidate this checkpoint with optimum-neuron itself: optimum-cli neuron consolidate",
            )
        undo(fusion, joined, loaded)
    return {name: tensor.clone().contiguous() for name, tensor in joined.items()}


def _undo_fused_linears(fusion: Fusion, joined: Tensors, loaded: list[Tensors]) -> None:
    """Gate and up in one layer: each rank's rows are gate's part, then up's; lora_A is common to both."""
    values = fusion.values
    if values["fuse_axis"] not in (0, "column"):
        raise ShardError(f"{fusion.module}: fused along axis {values['fuse_axis']}, which no Llama has", HINT)
    fused = f"{fusion.module}.{values['fused_linear_name']}"
    name_a, name_b = f"{fused}.lora_A.weight", f"{fused}.lora_B.weight"
    if name_b not in joined:
        return
    shared = joined.pop(name_a)
    joined.pop(name_b)
    sizes = [rows // values["tp_size"] for rows in values["original_dims"]]
    parts = [torch.split(rank[name_b], sizes, dim=0) for rank in loaded]
    for index, linear in enumerate(values["linear_names"]):
        joined[f"{fusion.module}.{linear}.lora_A.weight"] = shared
        joined[f"{fusion.module}.{linear}.lora_B.weight"] = torch.cat([part[index] for part in parts])


def _undo_qkv(fusion: Fusion, joined: Tensors, loaded: list[Tensors]) -> None:
    """Query, key and value in one layer, whose key and value heads may be repeated to fill all ranks."""
    values = fusion.values
    module, fused = fusion.module, f"{fusion.module}.{values['gqa_qkv_projection_name']}"
    order = _query_head_order(values)
    name_o = f"{module}.{values['output_projection_name']}.lora_A.weight"
    if name_o in joined:
        # What the output projection reads is in the order of the query heads.
        joined[name_o] = _reorder_heads(joined[name_o].t(), order).t()
    if f"{fused}.lora_A.weight" not in joined:
        return
    shared = joined.pop(f"{fused}.lora_A.weight")
    query, key, value = _qkv_parts(fused, values, joined, loaded)
    copies = values["kv_size_multiplier"]
    parts = {
        values["query_projection_name"]: _reorder_heads(query, order),
        values["key_projection_name"]: torch.chunk(key, copies)[0],
        values["value_projection_name"]: torch.chunk(value, copies)[0],
    }
    for linear, part in parts.items():
        joined[f"{module}.{linear}.lora_A.weight"] = shared
        joined[f"{module}.{linear}.lora_B.weight"] = part


def _qkv_parts(
    fused: str, values: dict[str, Any], joined: Tensors, loaded: list[Tensors]
) -> list[torch.Tensor]:
    """lora_B of query, key and value, each joined over the ranks."""
    names = [f"{fused}.lora_B.weight_{part}" for part in "qkv"]
    if not values["fuse_qkv"]:
        return [joined.pop(name) for name in names]
    name = f"{fused}.lora_B.weight_qkv"
    joined.pop(name)
    query, key = values["q_output_size_per_partition"], values["kv_output_size_per_partition"]
    parts = [torch.split(rank[name], [query, key, key]) for rank in loaded]
    return [torch.cat([part[index] for part in parts]) for index in range(3)]


def _query_head_order(values: dict[str, Any]) -> torch.Tensor:
    """The query heads in the order in which the ranks hold them, first rank first.

    The key heads are laid out once for each copy; a copy of a key head serves its share of that head's queries.
    """
    heads, key_heads = values["num_attention_heads"], values["num_key_value_heads"]
    copies = values["kv_size_multiplier"]
    group = heads // key_heads
    share = group // copies
    return torch.tensor(
        [
            key_head * group + copy * share + query
            for copy in range(copies)
            for key_head in range(key_heads)
            for query in range(share)
        ]
    )


def _reorder_heads(rows: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Rows grouped by head in the ranks' order, put back in the plain model's order."""
    by_head = rows.reshape(len(order), -1, rows.shape[1])
    plain = torch.empty_like(by_head)
    plain[order] = by_head
    return plain.reshape(rows.shape)


_UNDO = {"FusedLinearsSpec": _undo_fused_linears, "GQAQKVColumnParallelLinearSpec": _undo_qkv}
