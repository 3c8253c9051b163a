"""What a run will take before it is started: steps, tokens, hours, disk, memory and cost, each with its basis.

Measured figures of earlier runs on the same stack come first (measured.py); else formulas, whose constants are explained
in stage_times.py (time), memory.py (memory) and lengths.py (tokens). Disk:

- environment 1.44 GB for the cpu stack (measured), 12 GB for neuron (assumed); compile cache 3 GB (assumed);
- a checkpoint of the cpu stack: the adapter in fp32 with what every rank holds alike, and Adam's two moments (a demo's
  was 67.1 MB, this gives 66.4); of neuron the same in bf16 without moments. One more than are kept, while it is written;
- merged: the model once more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llama_tui.backend.catalog.machines import Machine
from llama_tui.backend.catalog.models import Model
from llama_tui.backend.figures import Figure, Unit, total
from llama_tui.backend.layout import directory_name
from llama_tui.backend.lengths import CHARS_PER_TOKEN, Packing, TokenLengths, sequences_of, why_unknown
from llama_tui.backend.measured import Measured, sequences_in_step
from llama_tui.backend.memory import Layout, cpu_memory, layout_of, neuron_memory, replicated_adapter
from llama_tui.backend.plain import count_of
from llama_tui.backend.settings import Settings, Stack
from llama_tui.backend.stage_times import Work, stage_times
from llama_tui.backend.stages import Stage

ENVIRONMENT = {Stack.CPU: 1.44e9, Stack.NEURON: 12e9}
COMPILE_CACHE = 3e9
TOKENIZER = 10e6
SMALL_FILES = 15e6
ON_ALL_NODES = (Stage.COMPILE_MODEL, Stage.FINETUNE)


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes:
        sequences: of one epoch.
        text_tokens: of one epoch.
        computed_tokens: of the whole training; on Neuron with padding.
        stages: seconds of each.
        time: seconds of all seven, without waiting in the queue.
        disk: bytes by directory of the workspace, while the run is at its largest.
        memory: bytes of a Neuron core, or of a process of the cpu stack.
        memory_limit: bytes that a core has; None for the cpu stack.
        cost: of the nodes, from the first stage's start to the last one's end.
    """

    steps: Figure
    sequences: Figure
    text_tokens: Figure
    computed_tokens: Figure
    stages: dict[Stage, Figure]
    time: Figure
    disk: dict[str, Figure]
    disk_total: Figure
    memory: Figure
    memory_limit: float | None
    cost: Figure

    @property
    def rows(self) -> list[tuple[str, Figure]]:
        """Everything as (label, figure), for a table."""
        return [
            ("Sequences an epoch", self.sequences),
            ("Tokens of text an epoch", self.text_tokens),
            ("Optimizer steps", self.steps),
            ("Tokens computed", self.computed_tokens),
            *((f"Time of {stage}", figure) for stage, figure in self.stages.items()),
            ("Time of all stages", self.time),
            *((f"Disk: {name}", figure) for name, figure in self.disk.items()),
            ("Disk, all", self.disk_total),
            ("Memory of a core" if self.memory_limit else "Memory of a process", self.memory),
            ("Cost", self.cost),
        ]


def estimate(
    settings: Settings,
    lengths: TokenLengths | None,
    machine: Machine | None,
    model: Model | None,
    measured: Measured | None = None,
    price: float = 0.0,
) -> Estimate:
    """What a run with these settings will take.

    Args:
        lengths: of the records to train on; None when they are not known yet.
        machine, model: None for one that the catalogue does not know.
        measured: earlier runs in the workspace.
        price: US dollars for one node an hour; 0 for the machine's price in the catalogue.
    """
    packing = _packing(settings, lengths, measured)
    sequences, text, basis, known = _epoch(settings, packing)
    steps = _steps(settings, packing)
    computed = _computed(settings, packing, steps)
    record = text / lengths.records if lengths and text else None
    stages = stage_times(Work(settings, model, machine, measured, computed.value, steps.value, record))
    disk = _disk(settings, lengths, model, measured)
    return Estimate(
        steps=steps,
        sequences=Figure(sequences, Unit.SEQUENCES, basis, known),
        text_tokens=Figure(text, Unit.TOKENS, basis, known),
        computed_tokens=computed,
        stages=stages,
        time=total(list(stages.values()), Unit.SECONDS, "the seven stages, without waiting in the queue"),
        disk=disk,
        disk_total=total(list(disk.values()), Unit.BYTES, "all directories, at the largest"),
        memory=_memory(settings, model),
        memory_limit=machine.memory_per_core if machine and settings.stack is Stack.NEURON else None,
        cost=_cost(settings, stages, machine, price),
    )


@dataclass(frozen=True)
class _Packed:
    packing: Packing
    basis: str
    measured: bool


def _packing(settings: Settings, lengths: TokenLengths | None, measured: Measured | None) -> _Packed | None:
    known = measured.packing(settings) if measured else None
    if known is not None:
        return _Packed(*known, measured=True)
    if lengths is None:
        return None
    training = settings.training
    found = sequences_of(lengths, training.sequence_length, training.packing)
    how = "packed by the same rule as in training" if training.packing else "one record to a sequence"
    return _Packed(found, f"{lengths.records:,} records to train on, {how}; {lengths.basis}", measured=False)


def _epoch(settings: Settings, packing: _Packed | None) -> tuple[float | None, float | None, str, bool]:
    if packing is None:
        return None, None, why_unknown(settings), False
    return packing.packing.sequences, packing.packing.text_tokens, packing.basis, packing.measured


def _steps(settings: Settings, packing: _Packed | None) -> Figure:
    """As templates/jobs/plan.py counts them."""
    training, in_step = settings.training, sequences_in_step(settings)
    if training.max_steps:
        return Figure(training.max_steps, Unit.STEPS, "training.max_steps")
    if packing is None:
        return Figure(None, Unit.STEPS, why_unknown(settings))
    an_epoch = math.ceil(packing.packing.sequences / in_step)
    basis = (
        f"{packing.packing.sequences:,} sequences / {in_step} in a step (batch {training.batch_size} x accumulation "
        f"{training.gradient_accumulation} x data-parallel copies) x {count_of(training.epochs, 'epoch')}"
    )
    return Figure(math.ceil(training.epochs * an_epoch), Unit.STEPS, basis, packing.measured)


def _computed(settings: Settings, packing: _Packed | None, steps: Figure) -> Figure:
    in_step, longest = sequences_in_step(settings), settings.training.sequence_length
    if steps.value is None:
        return Figure(None, Unit.TOKENS, steps.basis)
    if settings.stack is Stack.NEURON:
        basis = (
            f"steps x {in_step} sequences x {longest} tokens, padding included: shapes are fixed on Trainium"
        )
        return Figure(steps.value * in_step * longest, Unit.TOKENS, basis, steps.measured)
    if packing is None:
        return Figure(None, Unit.TOKENS, why_unknown(settings))
    mean = packing.packing.text_tokens / packing.packing.sequences
    basis = f"steps x {in_step} sequences x {mean:.0f} tokens of text: padding is not computed on a CPU"
    return Figure(steps.value * in_step * mean, Unit.TOKENS, basis, packing.measured)


def _memory(settings: Settings, model: Model | None) -> Figure:
    if model is None:
        return Figure(None, Unit.BYTES, f"{settings.model.model} is not in our catalogue")
    on_cpu = settings.stack is Stack.CPU
    needed = cpu_memory(settings, model) if on_cpu else neuron_memory(settings, model, layout_of(settings))
    return Figure(needed.total, Unit.BYTES, f"by formula: {needed.words}")


def _cost(settings: Settings, stages: dict[Stage, Figure], machine: Machine | None, price: float) -> Figure:
    if price:
        rate, source = price, f"{price:g} dollars a node and hour, as set"
    elif settings.stack is Stack.CPU:
        return Figure(None, Unit.DOLLARS, "no price is known of this machine: set resources.price_per_hour")
    elif machine is not None:
        rate = machine.price_per_hour
        source = (
            f"{rate:g} dollars a node and hour: {machine.price_source}, {machine.price_date}. Set resources.price_per_hour "
            "to your own price"
        )
    else:
        return Figure(None, Unit.DOLLARS, "no price is known of this machine: set resources.price_per_hour")
    nodes = settings.resources.nodes
    held = [
        Figure(
            None
            if figure.value is None
            else figure.value / 3600 * rate * (nodes if stage in ON_ALL_NODES else 1),
            Unit.DOLLARS,
            "",
            figure.measured,
        )
        for stage, figure in stages.items()
    ]
    return total(held, Unit.DOLLARS, source)


def _disk(
    settings: Settings, lengths: TokenLengths | None, model: Model | None, measured: Measured | None
) -> dict[str, Figure]:
    """Bytes by directory, as named in the workspace."""
    weights = _model_bytes(settings, model, measured)
    stored = (
        Figure(0, Unit.BYTES, "links to the files where they are")
        if settings.model.model.startswith("/")
        else weights
    )
    disk = {
        f"envs/{settings.stack}": Figure(
            ENVIRONMENT[settings.stack],
            Unit.BYTES,
            "measured" if settings.stack is Stack.CPU else "assumed",
            settings.stack is Stack.CPU,
        ),
        f"models/{directory_name(settings.model.model)}": stored,
        f"datasets/{directory_name(settings.model.dataset)}": _dataset_bytes(settings, lengths),
        "run/checkpoints": _checkpoint_bytes(settings, model),
        "run/adapter": _adapter_bytes(settings, model),
        "run/merged": weights,
        "run, other files": Figure(SMALL_FILES, Unit.BYTES, "logs, probe, programs: assumed"),
    }
    if settings.stack is Stack.NEURON:
        disk["cache/neuron"] = Figure(COMPILE_CACHE, Unit.BYTES, "compiled graphs: assumed")
    return disk


def _model_bytes(settings: Settings, model: Model | None, measured: Measured | None) -> Figure:
    known = measured.model_bytes(settings) if measured else None
    if known is not None:
        return Figure(known[0], Unit.BYTES, known[1], measured=True)
    if model is None:
        return Figure(None, Unit.BYTES, f"{settings.model.model} is not in our catalogue")
    return Figure(model.bytes_on_disk + TOKENIZER, Unit.BYTES, "2 bytes a parameter, and the tokenizer")


def _dataset_bytes(settings: Settings, lengths: TokenLengths | None) -> Figure:
    if lengths is None:
        return Figure(None, Unit.BYTES, why_unknown(settings))
    mean = sum(lengths.sample) / len(lengths.sample)
    return Figure(
        lengths.records * mean * CHARS_PER_TOKEN * 1.1, Unit.BYTES, "its characters, and JSON around them"
    )


def _checkpoint_bytes(settings: Settings, model: Model | None) -> Figure:
    if model is None:
        return Figure(None, Unit.BYTES, f"{settings.model.model} is not in our catalogue")
    on_cpu = settings.stack is Stack.CPU
    # The cpu stack cuts an adapter into as many shards as there are processes.
    processes = settings.resources.nodes * settings.resources.processes_per_node
    shards = Layout(processes, 1) if on_cpu else layout_of(settings)
    held = replicated_adapter(settings, model, shards.tensor)
    moments = 8 * model.adapter_parameters(settings.lora.r, settings.lora.targets) if on_cpu else 0
    one = (4 if on_cpu else 2) * held + moments
    kept = settings.training.save_total_limit + 1
    return Figure(kept * one, Unit.BYTES, f"{kept} of {one / 1e6:.1f} MB: those kept, and one being written")


def _adapter_bytes(settings: Settings, model: Model | None) -> Figure:
    if model is None:
        return Figure(None, Unit.BYTES, f"{settings.model.model} is not in our catalogue")
    width = 4 if settings.stack is Stack.CPU else 2
    parameters = model.adapter_parameters(settings.lora.r, settings.lora.targets)
    return Figure(width * parameters, Unit.BYTES, f"{parameters:,} parameters of {width} bytes")
