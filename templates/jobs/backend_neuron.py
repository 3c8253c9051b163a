"""Trains the adapter on Trainium with optimum-neuron 0.4.5: the same plan, data and checkpoints as on the CPU.

What differs there, and cannot be helped:
- records that share a packed sequence see each other: nothing in this version keeps attention inside a record. Each ends
  with its end-of-turn token, and no loss is taken across the border;
- NeuronTrainer refuses to resume. Ours loads the adapter, and moves the schedule and the data on; Adam's moments and the
  random state of dropout begin anew, which is said in the log.

Run under neuron_parallel_compile (NEURON_EXTRACT_GRAPHS_ONLY=1) it does the same, and keeps nothing.
"""

from __future__ import annotations

import functools
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoints
import graphs
import packing
import plan as planning
import probe
import torch
from common import EXIT_TERMINATED, StageError, atomic_write_json, log, read_json, report
from libraries import quiet_libraries
from model_consolidation import write_adapter
from neuron_callback import Agreement, Follower, only_extracting
from options import Options

_QKV = {"q_proj", "k_proj", "v_proj"}
_GATE_UP = {"gate_proj", "up_proj"}


@dataclass(frozen=True)
class Place:
    """Which process this is, of how many."""

    rank: int
    size: int

    def say(self, message: str) -> None:
        """Print once for all."""
        if self.rank == 0:
            log(message)


class Rows(torch.utils.data.Dataset[dict[str, list[int]]]):
    """The sequences of all steps from `start` on, in the plan's order, each filled up to one length."""

    def __init__(self, options: Options, prepared: planning.Prepared, start: int) -> None:
        self._options, self._prepared, self._start = options, prepared, start
        self._of_step = functools.lru_cache(maxsize=4)(prepared.plan.of_step)

    def __len__(self) -> int:
        plan = self._prepared.plan
        return max(0, plan.max_steps - self._start) * plan.per_step

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        step, place = divmod(index, self._prepared.plan.per_step)
        lists = packing.row(self._of_step(self._start + step)[place], self._options.response_loss_only)
        return model_inputs(lists, self._options.sequence_length, self._prepared.pad_id)


def model_inputs(lists: dict[str, list[int]], length: int, pad_id: int) -> dict[str, list[int]]:
    """What the Neuron model takes of a row, at fixed length: another shape would be another graph to compile."""
    filled = packing.padded(lists, length, pad_id)
    mask = [int(record >= 0) for record in filled["records"]]
    return {"input_ids": filled["input_ids"], "labels": filled["labels"], "attention_mask": mask}


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A batch of rows as tensors."""
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


def check_targets(targets: tuple[str, ...], key_value_heads: int, tensor_parallel: int) -> None:
    """Refuse layers that optimum-neuron fuses into one, unless all of them are targets.

    Raises:
        StageError: it would refuse them too, after minutes of loading and in other words.
    """
    chosen = set(targets)
    fused = [_GATE_UP] + ([_QKV] if key_value_heads % tensor_parallel else [])
    for layers in fused:
        missing = sorted(layers - chosen)
        if missing and len(missing) < len(layers):
            raise StageError(
                f"lora.targets must name all of {', '.join(sorted(layers))} or none: they are one layer on Trainium",
                f"add {', '.join(missing)}, or choose a tensor parallel size that divides {key_value_heads} key-value heads",
            )


def run(options: Options) -> int:
    """Train on Neuron cores; gives the exit code: 0, or 143 after SIGTERM with what was trained in a checkpoint."""
    if options.rehearse:
        raise StageError(
            "--rehearse is for the cpu back end", "on Trainium stage 2 compiles with neuron_parallel_compile"
        )
    began = time.monotonic()
    place = Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    prepared = planning.prepare(options, planning.data_parallel_size(options, place.size), place.say)
    _check_layout(options, place)
    if options.packing:
        place.say("note: on Trainium, records packed into one sequence can see each other")
    found = None if only_extracting() else newest(options, prepared, place)
    start = found.step if found else 0
    cache, compiled_for = graphs.CacheWatch(), graphs.arguments_of(options, place.size)
    if place.rank == 0 and only_extracting():
        atomic_write_json(options.run_dir / "reports" / graphs.ARGUMENTS_FILE, compiled_for)
    # The arguments first: they bring up the distributed state that the model's layers need.
    arguments = training_arguments(options, prepared)
    model = build_model(options, arguments, found)
    place.say(
        f"{arguments.world_size} data-parallel copies of {place.size // arguments.world_size} processes"
    )
    stop = _stop_on_sigterm()
    follower = Follower(options, prepared, start, Agreement(place.size, stop))
    trainer = build_trainer(arguments, model, Rows(options, prepared, start), prepared.tokenizer, follower)
    follower.attach(trainer)
    if len(trainer.train_dataset):
        trainer.train()
    if follower.stopped:
        place.say(
            f"stopped by SIGTERM: checkpoint-{follower.step} is saved, the next attempt goes on from it"
        )
        return EXIT_TERMINATED
    facts = finish(options, prepared, trainer.model, follower, place, start)
    if place.rank == 0 and not only_extracting():
        facts |= {**cache.tell(options.run_dir, compiled_for), "resumed_from": start or None}
        report(options.report, {**facts, "seconds": round(time.monotonic() - began, 1)})
    return 0


def _check_layout(options: Options, place: Place) -> None:
    config = read_json(options.model_dir / "config.json", "download_model")
    heads = int(config.get("num_key_value_heads", config["num_attention_heads"]))
    check_targets(options.lora_targets, heads, options.tensor_parallel)
    if heads % options.tensor_parallel:
        place.say(
            f"warning: tensor parallel {options.tensor_parallel} does not divide the model's {heads} key-value heads: they are "
            "repeated, and such training was seen to give an adapter that does not answer as the trained model; "
            "stage 5 checks that"
        )


def _stop_on_sigterm() -> Callable[[], bool]:
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    return lambda: bool(told)


def newest(options: Options, prepared: planning.Prepared, place: Place) -> checkpoints.Found | None:
    """The newest complete checkpoint, on all processes; says what a resumed run does not restore."""
    found = checkpoints.newest_complete(options.checkpoints, place.say)
    if found is None:
        return None
    wanted = planning.fingerprint(options, prepared.facts, place.size)
    checkpoints.check_fingerprint(found.path, wanted)
    place.say(f"resuming from {found.path.name}: adapter, learning rate and place in the data are restored")
    place.say("not restored: the optimizer's moments and the random state of dropout, which begin anew")
    return found


def training_arguments(options: Options, prepared: planning.Prepared) -> Any:
    """optimum-neuron's own argument object; data are packed already, and evaluation is stage 6's."""
    from optimum.neuron import NeuronSFTConfig

    return NeuronSFTConfig(
        output_dir=str(options.checkpoints),
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        max_steps=prepared.plan.max_steps,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        warmup_steps=options.warmup_steps,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        bf16=True,
        gradient_checkpointing=True,
        logging_steps=options.logging_steps,
        save_strategy="no" if only_extracting() else "steps",
        save_steps=options.save_steps,
        save_total_limit=options.save_total_limit or None,
        seed=options.seed,
        tensor_parallel_size=options.tensor_parallel,
        pipeline_parallel_size=options.pipeline_parallel,
        max_length=options.sequence_length,
        packing=False,
        completion_only_loss=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        skip_cache_push=True,
        report_to="none",
        disable_tqdm=True,
    )


def build_model(options: Options, arguments: Any, found: checkpoints.Found | None) -> Any:
    """The base model in bf16, spread over the cores, with a new adapter or the checkpoint's."""
    # Not the class of the same name in optimum.neuron, which is for inference.
    from optimum.neuron.models.training import NeuronModelForCausalLM
    from optimum.neuron.peft import NeuronPeftModelForCausalLM, get_peft_model
    from peft import LoraConfig
    from transformers import set_seed

    quiet_libraries()
    model = NeuronModelForCausalLM.from_pretrained(
        str(options.model_dir),
        arguments.trn_config,
        dtype=torch.bfloat16,
        attn_implementation="flash_attention_2",
    )
    if arguments.gradient_checkpointing:
        # The base is frozen: without this no gradient would flow back through a recomputed layer.
        model.enable_input_require_grads()
    # All ranks draw the same numbers, so that what they hold alike begins alike.
    set_seed(options.seed)
    if found is None:
        config = LoraConfig(
            r=options.lora_r,
            lora_alpha=options.lora_alpha,
            lora_dropout=options.lora_dropout,
            target_modules=list(options.lora_targets),
            bias="none",
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, config)
    with tempfile.TemporaryDirectory() as scratch:
        # As one PEFT adapter, which optimum-neuron cuts up again for whatever layout this run has.
        write_adapter(found.adapter, Path(scratch) / "adapter")
        return NeuronPeftModelForCausalLM.from_pretrained(model, f"{scratch}/adapter", is_trainable=True)


def build_trainer(arguments: Any, model: Any, rows: Rows, tokenizer: Any, follower: Follower) -> Any:
    """NeuronSFTTrainer, with our rows in the plan's order."""
    from optimum.neuron import NeuronSFTTrainer

    class InOrder(NeuronSFTTrainer):
        """Takes the rows as they come: the plan has shuffled them, and a resumed run must find the same order."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)

    return InOrder(
        model=model,
        args=arguments,
        data_collator=collate,
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[follower],
    )


def finish(
    options: Options, prepared: planning.Prepared, model: Any, follower: Follower, place: Place, start: int
) -> dict[str, Any]:
    """The probe of the trained model, still sharded; gives what the report says."""
    facts: dict[str, Any] = {
        **prepared.facts,
        "backend": "neuron",
        "processes": place.size,
        "steps": max(start, follower.step),
        "checkpoint": f"checkpoint-{max(start, follower.step)}",
        **follower.figures(),
    }
    about = {"backend": "neuron", "dtype": "bfloat16", "step": facts["steps"]}
    folder = options.run_dir / "probe"
    if options.pipeline_parallel > 1:
        why = "a model cut into pipeline stages gives no logits in optimum-neuron 0.4.5"
        place.say(f"warning: no probe is taken: {why}; stage 5 cannot check the merged model")
        if place.rank == 0 and not only_extracting():
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write_json(folder / "probe.json", {"skipped": why, **about})
        return facts
    tokenizer, system = prepared.tokenizer, prepared.system
    rows = probe.choose_rows(
        tokenizer, options.model_dir, options.dataset_dir, system, options.sequence_length
    )
    answer = ask(model, rows, options.sequence_length, prepared.pad_id)
    if place.rank == 0 and not only_extracting():
        found = checkpoints.newest_complete(options.checkpoints)
        replicas = found.adapter.replica_difference if found else None
        probe.save(folder, rows, answer, {**about, "replica_difference": replicas})
        log(f"probe: loss {answer.loss:.4f} on {len(rows)} texts")
        facts |= {"probe_loss": answer.loss, "replica_difference": replicas}
    return facts


@torch.no_grad()
def ask(model: Any, rows: list[probe.Row], length: int, pad_id: int) -> probe.Answer:
    """The trained model's answer on the probe: every process computes, the vocabulary's parts are put together."""
    import torch_xla.core.xla_model as xm
    from neuronx_distributed.parallel_layers.mappings import gather_from_tensor_model_parallel_region

    model.eval()
    logits = []
    for row in rows:
        ids = torch.tensor([row.ids + [pad_id] * (length - len(row.ids))])
        mask = (torch.arange(length) < len(row.ids)).long()[None]
        inputs = {"input_ids": ids.to(xm.xla_device()), "attention_mask": mask.to(xm.xla_device())}
        whole = gather_from_tensor_model_parallel_region(model(**inputs).logits)
        xm.mark_step()
        logits.append(whole.cpu().float()[0, : len(row.ids)])
    return probe.answer_of(rows, logits)
