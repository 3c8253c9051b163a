"""The probe: what the trained model says on a fixed batch, kept by stage 3 and asked again of the merged model.

Between training and the merged model lie sharding, consolidation and merging, and each can go wrong without an error
(facts: a real case with tensor parallel 4). So stage 3 keeps loss and logits of the model that it trained, and stage 5
compares them with the merged model's, computed in float32 from its files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chat
import torch
from common import StageError, atomic_write_json, log, read_json
from merge import lora_change
from safetensors.torch import load_file, save_file
from streamed import StreamedLlama, unchanged

PROBE_ROWS = 4
PROBE_TOKENS = 128
PROBE_POSITIONS = 4


@dataclass(frozen=True)
class Row:
    """One text of the probe: `positions` are those whose logits are kept."""

    ids: list[int]
    answer_start: int
    positions: list[int]


@dataclass(frozen=True)
class Answer:
    """What a model says on the probe: mean loss over the answers' tokens, logits [kept positions, vocabulary]."""

    loss: float
    logits: torch.Tensor


@dataclass(frozen=True)
class Tolerance:
    """How far a model may be from the trained one: `floor` + `share` of what training moved.

    Logits are compared by their root mean square, loss by its difference; both are in nats.
    """

    floor: float
    share: float


@dataclass(frozen=True)
class Tolerances:
    """What counts as rounding for base + adapter, which is computed unrounded, and for the merged model; and why."""

    adapter: Tolerance
    merged: Tolerance
    why: str


# Measured on SmolLM2-135M on the CPU: base + adapter is off by 2e-6 of what training moved the logits, the merged model by
# 0.008. On Trainium: the tp2 fixture of tests/fixtures/neuron-checkpoints is off by 0.002 of it, the broken tp4 one by half.
TOLERANCES = {
    "cpu": Tolerances(
        Tolerance(0.001, 0.001),
        Tolerance(0.02, 0.05),
        "training computes in float32; merging rounds each changed weight once to the base's type",
    ),
    "neuron": Tolerances(
        Tolerance(0.03, 0.2),
        Tolerance(0.03, 0.25),
        "training computes in bfloat16 on the chip, the check in float32; merging rounds once more",
    ),
}


def choose_rows(
    tokenizer: Any, model_dir: Path, dataset_dir: Path, system: str | None, length: int
) -> list[Row]:
    """The first held-out records (training ones where none are held out), cut to 128 tokens."""
    limit = min(PROBE_TOKENS, length)
    held_out, train = dataset_dir / "held_out.jsonl", dataset_dir / "train.jsonl"
    file = held_out if held_out.is_file() and held_out.stat().st_size else train
    examples = chat.load_examples(tokenizer, model_dir, file, system, limit).items[:PROBE_ROWS]
    return [
        Row(one.ids, one.answer_start, _spread(one.answer_start - 1, len(one.ids) - 2)) for one in examples
    ]


def _spread(first: int, last: int) -> list[int]:
    """A few positions from first to last, evenly."""
    count = min(PROBE_POSITIONS, last - first + 1)
    return sorted({first + (last - first) * index // max(1, count - 1) for index in range(count)})


def answer_of(rows: list[Row], logits: list[torch.Tensor]) -> Answer:
    """Loss and kept logits, from the logits [tokens, vocabulary] of each row."""
    total, count, kept = 0.0, 0, []
    for one, row_logits in zip(rows, logits, strict=True):
        values = row_logits.float()
        targets = torch.tensor(one.ids[one.answer_start :])
        predicting = values[one.answer_start - 1 : len(one.ids) - 1]
        total += float(torch.nn.functional.cross_entropy(predicting, targets, reduction="sum"))
        count += len(targets)
        kept.append(values[one.positions])
    return Answer(total / count, torch.cat(kept))


def save(folder: Path, rows: list[Row], answer: Answer, facts: dict[str, Any]) -> None:
    """Keep the probe in a run's probe/ directory; probe.json is written last."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "logits.safetensors.partial"
    save_file({"logits": answer.logits.float().contiguous()}, partial)
    partial.replace(folder / "logits.safetensors")
    content = {"rows": [vars(row) for row in rows], "loss": answer.loss, **facts}
    atomic_write_json(folder / "probe.json", content)


def load(folder: Path) -> tuple[list[Row], Answer, dict[str, Any]]:
    """What `save` kept.

    Raises:
        StageError: it is missing or damaged.
    """
    content = read_json(folder / "probe.json", "finetune")
    try:
        rows = [Row(**row) for row in content.pop("rows")]
        logits = load_file(folder / "logits.safetensors")["logits"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageError(f"{folder} is damaged: {error}", "run finetune again") from None
    return rows, Answer(content.pop("loss"), logits), content


def computed(folder: Path, made_by: str, rows: list[Row], change: Any = unchanged) -> Answer:
    """What a model directory says on the probe, in float32, one layer in memory at a time."""
    model = StreamedLlama(folder, made_by, change)
    hidden = model.hidden([row.ids for row in rows])
    return answer_of(rows, [model.logits(one) for one in hidden])


def check(run_dir: Path, model_dir: Path, adapter_dir: Path, merged_dir: Path) -> dict[str, Any]:
    """Compare the merged model with the trained one; gives what was found.

    Raises:
        StageError: they differ by more than rounding; the message says in which stage it arose.
    """
    skipped = read_json(run_dir / "probe" / "probe.json", "finetune").get("skipped")
    if skipped:
        log(f"warning: the merged model is not checked against the trained one: {skipped}")
        return {"skipped": skipped}
    rows, trained, facts = load(run_dir / "probe")
    base = computed(model_dir, "download_model", rows)
    adapted = computed(model_dir, "download_model", rows, lora_change(adapter_dir))
    merged = computed(merged_dir, "merge_lora_weights", rows)
    return compare(trained, base, adapted, merged, facts)


def compare(
    trained: Answer, base: Answer, adapted: Answer, merged: Answer, facts: dict[str, Any]
) -> dict[str, Any]:
    """Judge four answers on the probe: of the trained model, the base, base + adapter, and the merged model.

    Raises:
        StageError: base + adapter, or the merged model, is farther from the trained one than rounding explains.
    """
    backend = facts.get("backend", "cpu")
    rules = TOLERANCES[backend]
    moved = distance(trained, base)
    found: dict[str, Any] = {
        "backend": backend,
        "step": facts.get("step"),
        "trained_loss": trained.loss,
        "merged_loss": merged.loss,
        "base_loss": base.loss,
        "training_moved": moved,
        "adapter": _judged(distance(trained, adapted), rules.adapter, moved),
        "merged": _judged(distance(trained, merged), rules.merged, moved),
        "replica_difference": facts.get("replica_difference"),
    }
    if not found["adapter"]["agrees"]:
        raise _differs("base + adapter", found["adapter"], moved, rules.why, _before_merge(facts))
    if not found["merged"]["agrees"]:
        where = "It arose in merging (stage 5): base + adapter agrees."
        raise _differs("the merged model", found["merged"], moved, rules.why, where)
    log(
        f"probe: the merged model is the trained one (logits off by {found['merged']['off_by']['logits']:.4f}, training "
        f"moved them by {moved['logits']:.4f}; loss {merged.loss:.4f}, trained {trained.loss:.4f}, base {base.loss:.4f})"
    )
    return found


def distance(one: Answer, other: Answer) -> dict[str, float]:
    """How far two answers are apart: root mean square of the logits' difference, and the losses' difference."""
    logits = (one.logits - other.logits).square().mean().sqrt()
    return {"logits": float(logits), "loss": abs(one.loss - other.loss)}


def _judged(off: dict[str, float], rule: Tolerance, moved: dict[str, float]) -> dict[str, Any]:
    allowed = {name: rule.floor + rule.share * moved[name] for name in moved}
    # Written so that what is not a number does not agree.
    agrees = all(off[name] <= allowed[name] for name in off)
    return {"off_by": off, "allowed": allowed, "agrees": agrees}


def _before_merge(facts: dict[str, Any]) -> str:
    replicas = facts.get("replica_difference") or {"max": 0.0}
    text = "It arose before the merge: in sharding or in joining the shards (stages 3 and 4)."
    if replicas["max"]:
        text += (
            f" Parameters that all ranks should hold alike differ by up to {replicas['max']:.3g} "
            f"({replicas.get('parameter')}, rank {replicas.get('rank')}); the joined adapter has rank 0's."
        )
    return text


def _differs(what: str, judged: dict[str, Any], moved: dict[str, float], why: str, where: str) -> StageError:
    off, allowed = judged["off_by"], judged["allowed"]
    return StageError(
        f"{what} does not answer as the trained model did: logits differ by {off['logits']:.4f} "
        f"(allowed {allowed['logits']:.4f}; training moved them by {moved['logits']:.4f}), "
        f"loss by {off['loss']:.4f} (allowed {allowed['loss']:.4f}). {where}",
        f"allowed is rounding: {why}. Use a tensor parallel size that divides the model's key-value heads, "
        "and look at model_consolidation's report",
    )
