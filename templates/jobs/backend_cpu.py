"""Trains the adapter on the CPU: one process a core, all with the whole model, gradients summed over gloo.

torchrun starts the processes. Everything that decides a step (records, learning rate, random state) is in the plan or in
the checkpoint, so that a resumed run computes exactly what an uninterrupted one would have.
"""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import checkpoints
import packing
import plan as planning
import probe
import torch
import torch.distributed as dist
from common import EXIT_TERMINATED, log, report
from libraries import quiet_libraries
from losses import summed_loss
from metrics import MetricsWriter, Step, require_finite
from options import Options
from world import World

MAX_GRADIENT_NORM = 1.0


@dataclass
class Trainer:
    """The model, its optimizer, and how far it has come."""

    options: Options
    world: World
    prepared: planning.Prepared
    model: Any
    optimizer: torch.optim.AdamW
    step: int = 0
    peft_config: dict[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        """The adapter's parameters."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


@dataclass
class Tally:
    """Sums since the last line of metrics."""

    began: float = field(default_factory=time.monotonic)
    steps: int = 0
    loss: float = 0.0
    loss_tokens: int = 0
    text_tokens: int = 0


def run(options: Options) -> int:
    """Train, or rehearse; gives the exit code: 0, or 143 after SIGTERM with what was trained in a checkpoint."""
    began = time.monotonic()
    torch.set_num_threads(1)
    world = World.join()
    try:
        prepared = planning.prepare(options, planning.data_parallel_size(options, world.size), world.say)
        trainer = build(options, world, prepared)
        code = 0
        if options.rehearse:
            rehearse(trainer, began)
        else:
            code = train(trainer, began)
        world.leave()
        return code
    finally:
        dist.destroy_process_group()


def build(options: Options, world: World, prepared: planning.Prepared) -> Trainer:
    """Load the base model in float32 and put the adapter in; the seed makes it the same on all processes."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    quiet_libraries()
    world.say(f"loading {options.model_dir} in float32 on {world.size} processes")
    base = AutoModelForCausalLM.from_pretrained(
        options.model_dir, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
    )
    torch.manual_seed(options.seed)
    config = LoraConfig(
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=list(options.lora_targets),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(options.model_dir),
    )
    model = get_peft_model(base, config)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    world.say(f"{sum(parameter.numel() for parameter in trained):,} parameters are trained")
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=options.weight_decay)
    # Dropout must differ between the processes, which see different records.
    torch.manual_seed(options.seed * 1009 + world.rank)
    return Trainer(options, world, prepared, model, optimizer, peft_config=_plain(config.to_dict()))


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """A PEFT configuration as JSON can hold it."""
    plain = {}
    for name, value in config.items():
        listed = sorted(value) if isinstance(value, set) else value
        plain[name] = getattr(listed, "value", listed)
    return {**plain, "inference_mode": True}


def train(trainer: Trainer, began: float) -> int:
    """All steps from the newest checkpoint on, the probe, and the report."""
    options, world = trainer.options, trainer.world
    resume(trainer)
    max_steps = trainer.prepared.plan.max_steps
    writer = MetricsWriter(options.run_dir / "metrics.jsonl", max_steps) if world.rank == 0 else None
    resumed_from = trainer.step
    if resumed_from and writer:
        writer.event("resumed", resumed_from)
    signal.signal(signal.SIGTERM, lambda *_: setattr(world, "told", True))
    lines: list[Step] = []
    saved = resumed_from
    for told in steps(trainer, max_steps):
        if told is not None:
            lines.append(told)
            if writer:
                writer.step(told)
        last = trainer.step == max_steps
        if last or world.stop or trainer.step % options.save_steps == 0:
            save(trainer)
            saved = trainer.step
        if world.stop and not last:
            world.say(f"stopped by SIGTERM: checkpoint-{saved} is saved, the next attempt goes on from it")
            return EXIT_TERMINATED
    facts = finish(trainer, resumed_from)
    facts |= _figures(lines, time.monotonic() - began)
    if world.rank == 0 and options.report:
        report(options.report, facts)
    return 0


def _figures(lines: list[Step], seconds: float) -> dict[str, Any]:
    figures: dict[str, Any] = {"seconds": round(seconds, 1)}
    if lines:
        figures |= {
            "first_loss": lines[0].loss,
            "last_loss": lines[-1].loss,
            "seconds_per_step": round(sum(line.step_seconds for line in lines) / len(lines), 3),
            "tokens_per_second": round(sum(line.tokens_per_second for line in lines) / len(lines), 1),
        }
    return figures


def resume(trainer: Trainer) -> None:
    """Go on from the newest complete checkpoint, if there is one: adapter, optimizer, random state, place in the data."""
    from peft import set_peft_model_state_dict

    options, world = trainer.options, trainer.world
    found = None
    if world.rank == 0:
        found = checkpoints.newest_complete(options.checkpoints, log, resumable=True)
    step = world.from_first(found.step if found else None)
    if step is None:
        return
    path = options.checkpoints / f"checkpoint-{step}"
    checkpoints.check_fingerprint(path, _fingerprint(trainer))
    adapter = checkpoints.newest_complete(options.checkpoints, lambda _: None, resumable=True)
    assert adapter is not None and adapter.step == step
    set_peft_model_state_dict(trainer.model, adapter.adapter.tensors)
    optimizer, random_state = checkpoints.load_resume_state(path, world.rank)
    trainer.optimizer.load_state_dict(optimizer)
    torch.set_rng_state(random_state)
    trainer.step = step
    world.say(
        f"resumed from {path.name}: adapter, optimizer, learning rate, random state and place in the data"
    )


def _fingerprint(trainer: Trainer) -> dict[str, Any]:
    return planning.fingerprint(trainer.options, trainer.prepared.facts, trainer.world.size)


def steps(trainer: Trainer, max_steps: int) -> Iterator[Step | None]:
    """Take steps until max_steps; yields after each, with figures when a line is due."""
    plan, tally = trainer.prepared.plan, Tally()
    while trainer.step < max_steps:
        sequences = plan.of_step(trainer.step)
        loss, norm = one_step(trainer, sequences)
        trainer.step += 1
        require_finite(trainer.step, loss=loss, gradient_norm=norm)
        loss_tokens = _loss_tokens(sequences, trainer.options)
        tally.steps += 1
        tally.loss += loss * loss_tokens
        tally.loss_tokens += loss_tokens
        tally.text_tokens += sum(sequence.length for sequence in sequences)
        due = trainer.step % trainer.options.logging_steps == 0 or trainer.step == max_steps
        yield _line(trainer, tally, norm) if due else None
        if due:
            tally = Tally()


def _line(trainer: Trainer, tally: Tally, norm: float) -> Step:
    seconds = time.monotonic() - tally.began
    plan = trainer.prepared.plan
    return Step(
        step=trainer.step,
        epoch=round(trainer.step / plan.steps_per_epoch, 4),
        loss=tally.loss / tally.loss_tokens,
        learning_rate=planning.learning_rate(trainer.options, plan.max_steps, trainer.step - 1),
        grad_norm=norm,
        tokens_per_second=round(tally.text_tokens / seconds, 1),
        step_seconds=round(seconds / tally.steps, 3),
    )


def _loss_tokens(sequences: list[packing.Sequence], options: Options) -> int:
    rows = (packing.row(sequence, options.response_loss_only) for sequence in sequences)
    return sum(label != packing.IGNORED for row in rows for label in row["labels"])


def one_step(trainer: Trainer, sequences: list[packing.Sequence]) -> tuple[float, float]:
    """One optimizer step on these sequences, this process taking its share; gives mean loss and gradient norm.

    Losses and gradients are sums divided by the step's tokens, so that every token weighs the same however the
    sequences fall on the processes. One exchange carries gradients, loss, and whether somebody was told to stop.
    """
    options, world = trainer.options, trainer.world
    total = _loss_tokens(sequences, options)
    own = 0.0
    model = trainer.model.get_base_model()
    for sequence in _share(sequences, options.batch_size, world):
        # One at a time: on a CPU that is as fast as a batch of several, and needs a fraction of the memory.
        batch = packing.batch([sequence], trainer.prepared.pad_id, options.response_loss_only)
        loss, _ = summed_loss(model, batch)
        (loss / total).backward()
        own += float(loss.detach())
    gradients = [
        parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        for parameter in trainer.trained
    ]
    extra = torch.tensor([own / total, float(world.told)])
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients] + [extra])
    dist.all_reduce(flat)
    world.stop = bool(flat[-1] > 0)
    norm = float(flat[:-2].norm())
    _put_back(trainer.trained, flat[:-2] * min(1.0, MAX_GRADIENT_NORM / (norm + 1e-6)))
    for group in trainer.optimizer.param_groups:
        group["lr"] = planning.learning_rate(options, trainer.prepared.plan.max_steps, trainer.step)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return float(flat[-2]), norm


def _share(sequences: list[packing.Sequence], size: int, world: World) -> Iterator[packing.Sequence]:
    """This process's sequences of a step."""
    for first in range(world.rank * size, len(sequences), world.size * size):
        yield from sequences[first : first + size]


def _put_back(parameters: list[torch.nn.Parameter], flat: torch.Tensor) -> None:
    position = 0
    for parameter in parameters:
        parameter.grad = flat[position : position + parameter.numel()].view_as(parameter)
        position += parameter.numel()


def save(trainer: Trainer) -> None:
    """Write a checkpoint, all processes together, and remove the oldest."""
    from peft import get_peft_model_state_dict

    options, world = trainer.options, trainer.world
    plan = trainer.prepared.plan
    snapshot = checkpoints.Snapshot(
        step=trainer.step,
        adapter=get_peft_model_state_dict(trainer.model),
        config=trainer.peft_config,
        trainer_state={
            "global_step": trainer.step,
            "max_steps": plan.max_steps,
            "epoch": trainer.step / plan.steps_per_epoch,
            "processes": world.size,
        },
        optimizer=trainer.optimizer.state_dict(),
        random=torch.get_rng_state(),
        fingerprint=_fingerprint(trainer),
    )
    path = checkpoints.save(
        options.checkpoints, snapshot, checkpoints.Group(world.rank, world.size, world.barrier)
    )
    if world.rank == 0:
        checkpoints.prune(options.checkpoints, options.save_total_limit)
    world.say(f"{path.name} saved")


def finish(trainer: Trainer, resumed_from: int) -> dict[str, Any]:
    """The probe of the trained model, kept beside its last checkpoint; gives what the report says."""
    options, world = trainer.options, trainer.world
    peak = world.sum(_peak_memory())
    facts = {
        **trainer.prepared.facts,
        "backend": "cpu",
        "processes": world.size,
        "steps": trainer.step,
        "resumed_from": resumed_from or None,
        "checkpoint": f"checkpoint-{trainer.step}",
        "peak_memory_bytes": int(peak),
    }
    if world.rank == 0:
        found = checkpoints.newest_complete(options.checkpoints)
        replicas = found.adapter.replica_difference if found else None
        rows = probe.choose_rows(
            trainer.prepared.tokenizer,
            options.model_dir,
            options.dataset_dir,
            trainer.prepared.system,
            options.sequence_length,
        )
        answer = _ask(trainer.model, rows)
        about = {"backend": "cpu", "dtype": "float32", "step": trainer.step, "replica_difference": replicas}
        probe.save(options.run_dir / "probe", rows, answer, about)
        log(
            f"probe: loss {answer.loss:.4f} on {len(rows)} texts; peak memory of all processes {peak / 1e9:.2f} GB"
        )
        facts |= {"probe_loss": answer.loss, "replica_difference": replicas}
    world.barrier()
    return facts


@torch.no_grad()
def _ask(model: Any, rows: list[probe.Row]) -> probe.Answer:
    model.eval()
    logits = [model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0] for row in rows]
    return probe.answer_of(rows, logits)


def rehearse(trainer: Trainer, began: float) -> None:
    """A few steps of stage 3 as they will be, nothing kept: shapes, time, memory, and hence what stage 3 will take."""
    options, world, plan = trainer.options, trainer.world, trainer.prepared.plan
    set_up = time.monotonic() - began
    count = min(options.rehearse, plan.max_steps)
    times: list[float] = []
    loss = 0.0
    for _ in range(count):
        start = time.monotonic()
        loss, norm = one_step(trainer, plan.of_step(trainer.step))
        trainer.step += 1
        require_finite(trainer.step, loss=loss, gradient_norm=norm)
        times.append(time.monotonic() - start)
        world.say(f"rehearsal step {trainer.step} of {count}: loss {loss:.4f}, {times[-1]:.2f} s")
    # The first step warms allocator and caches up.
    per_step = min(times)
    estimate = set_up + per_step * plan.max_steps
    peak = world.sum(_peak_memory())
    shape = [options.batch_size, options.sequence_length]
    world.say(
        f"rehearsed with {world.size} processes, batches of {shape[0]} x {shape[1]} tokens: {per_step:.2f} s a step, "
        f"peak memory {peak / 1e9:.2f} GB; stage 3 will take about {estimate / 60:.1f} min"
    )
    if world.rank == 0:
        report(
            options.report,
            {
                **trainer.prepared.facts,
                "rehearsal": True,
                "processes": world.size,
                "batch_shape": shape,
                "steps_rehearsed": count,
                "seconds_per_step": round(per_step, 3),
                "peak_memory_bytes": int(peak),
                "loss": loss,
                "estimate": {"steps": plan.max_steps, "seconds": round(estimate, 1)},
                "seconds": round(time.monotonic() - began, 1),
            },
        )


def _peak_memory() -> float:
    """Bytes of memory this process has had at most; what processes share is counted in each."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
