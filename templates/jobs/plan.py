"""What stage 3 will compute: which records in which step, and at which learning rate. The same for both back ends.

Everything here follows from the options and the data alone, so that every process computes the same plan, and a
resumed run goes on with exactly the records that an uninterrupted one would have come to.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import chat
import packing
from common import StageError, require

if TYPE_CHECKING:
    from collections.abc import Callable

    from options import Options
    from packing import Sequence


@dataclass(frozen=True)
class Plan:
    """Sequences, and their order: `per_step` of them in each step, over all data-parallel processes together."""

    sequences: list[Sequence]
    per_step: int
    max_steps: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every sequence is used once."""
        return math.ceil(len(self.sequences) / self.per_step)

    def of_step(self, step: int) -> list[Sequence]:
        """The sequences of a step (counted from 0). An epoch's last step is filled up from the epoch's beginning."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = list(range(len(self.sequences)))
        random.Random(f"{self.seed}/{epoch}").shuffle(order)
        first = position * self.per_step
        return [self.sequences[order[index % len(order)]] for index in range(first, first + self.per_step)]


@dataclass(frozen=True)
class Prepared:
    """What a back end needs to train: the plan, the tokenizer, and what to tell of the data."""

    plan: Plan
    tokenizer: Any
    pad_id: int
    system: str | None
    facts: dict[str, Any]


def prepare(options: Options, data_parallel: int, say: Callable[[str], None]) -> Prepared:
    """Read and pack the records for so many data-parallel processes; `say` gets the facts in words.

    Raises:
        StageError: model or data set are missing or do not fit the options.
    """
    require(options.model_dir / ".complete", "download_model")
    require(options.dataset_dir / "train.jsonl", "download_model")
    tokenizer = chat.load_tokenizer(options.model_dir)
    system = chat.system_prompt(options.run_dir / "prompts.json")
    train_file = options.dataset_dir / "train.jsonl"
    examples = chat.load_examples(tokenizer, options.model_dir, train_file, system, options.sequence_length)
    packed = packing.pack(examples.items, options.sequence_length, options.seed)
    sequences = packed if options.packing else packing.one_each(examples.items)
    plan = _plan(sequences, options, data_parallel)
    facts = {
        "records": len(examples.items),
        "records_cut": examples.cut,
        "records_left_out": examples.left_out,
        "sequences": len(sequences),
        "text_share": round(packing.share_of_text(sequences, options.sequence_length), 4),
        "steps_per_epoch": plan.steps_per_epoch,
    }
    _tell(facts, options, plan, say)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Prepared(plan, tokenizer, pad_id, system, facts)


def _plan(sequences: list[Sequence], options: Options, data_parallel: int) -> Plan:
    per_step = options.batch_size * options.gradient_accumulation * data_parallel
    steps_per_epoch = math.ceil(len(sequences) / per_step)
    max_steps = options.max_steps or math.ceil(options.epochs * steps_per_epoch)
    return Plan(sequences, per_step, max_steps, options.seed)


def _tell(facts: dict[str, Any], options: Options, plan: Plan, say: Callable[[str], None]) -> None:
    say(
        f"{facts['records']} records in {facts['sequences']} sequences of {options.sequence_length} tokens: "
        f"{facts['text_share']:.1%} of what is computed is text"
    )
    if facts["records_cut"]:
        say(f"{facts['records_cut']} records are longer than {options.sequence_length} tokens and were cut")
    if facts["records_left_out"]:
        say(f"{facts['records_left_out']} records were left out: their question alone fills a sequence")
    say(f"{plan.max_steps} steps of {plan.per_step} sequences, {plan.steps_per_epoch} steps an epoch")
    if options.warmup_steps >= plan.max_steps:
        say(
            f"note: the warm-up ({options.warmup_steps} steps) is not shorter than the training "
            f"({plan.max_steps} steps): the learning rate never gets to {options.learning_rate:g}"
        )


def learning_rate(options: Options, max_steps: int, step: int) -> float:
    """The learning rate of a step (counted from 0): up during the warm-up, then down in a line to nothing."""
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    left = max_steps - step
    return options.learning_rate * left / max(1, max_steps - options.warmup_steps)


def data_parallel_size(options: Options, world: int) -> int:
    """How many groups of processes each hold a whole model.

    Raises:
        StageError: tensor x pipeline parallel does not divide the number of processes.
    """
    model = options.tensor_parallel * options.pipeline_parallel
    if world % model:
        raise StageError(
            f"{world} processes cannot be divided by tensor parallel {options.tensor_parallel} x "
            f"pipeline parallel {options.pipeline_parallel}",
            "change training.tensor_parallel, or the number of processes",
        )
    return world // model


def fingerprint(options: Options, facts: dict[str, Any], world: int) -> dict[str, Any]:
    """What must be the same for a checkpoint to be gone on from: the adapter's shape and the order of the data."""
    return {
        "lora_r": options.lora_r,
        "lora_alpha": options.lora_alpha,
        "lora_targets": sorted(options.lora_targets),
        "lora_dropout": options.lora_dropout,
        "sequence_length": options.sequence_length,
        "batch_size": options.batch_size,
        "gradient_accumulation": options.gradient_accumulation,
        "learning_rate": options.learning_rate,
        "weight_decay": options.weight_decay,
        "warmup_steps": options.warmup_steps,
        "seed": options.seed,
        "packing": options.packing,
        "response_loss_only": options.response_loss_only,
        "processes": world,
        "records": facts["records"],
        "sequences": facts["sequences"],
    }
