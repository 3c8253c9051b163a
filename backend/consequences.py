"""What the answers come to, in a line or two that a person sees while giving them."""

from __future__ import annotations

from llama_tui.backend.catalog.machines import GIB, find_machine
from llama_tui.backend.catalog.models import find_model
from llama_tui.backend.estimates import Estimate
from llama_tui.backend.foresight import stoppers
from llama_tui.backend.layouts import nearest_layout
from llama_tui.backend.measured import sequences_in_step
from llama_tui.backend.memory import layout_of, neuron_memory
from llama_tui.backend.settings import Settings, Stack


def training_lines(settings: Settings, found: Estimate | None) -> list[str]:
    """Steps, the batch of a step and the warm-up's share.

    Args:
        found: None while it is being made.
    """
    training = settings.training
    in_step = sequences_in_step(settings)
    copies = in_step // (training.batch_size * training.gradient_accumulation)
    batch = (
        f"effective batch {in_step:,} = {training.batch_size} x {training.gradient_accumulation} accumulated x "
        f"{copies} data-parallel, {in_step * training.sequence_length:,} tokens"
    )
    if found is None:
        return ["… counting optimizer steps", batch]
    steps = found.steps.value
    if steps is None:
        return [f"optimizer steps: {found.steps.basis}", batch]
    return [f"{_steps(settings, found)}; {_warmup(training.warmup_steps, int(steps))}", batch]


def _steps(settings: Settings, found: Estimate) -> str:
    training = settings.training
    words = found.steps.words.replace("steps", "optimizer steps")
    sequences = found.sequences.value
    if training.max_steps:
        passes = training.max_steps * sequences_in_step(settings) / sequences if sequences else 0
        return f"{words} (Steps at most" + (f", {passes:.3g} epochs)" if passes else ")")
    packed = "packed" if training.packing else "not packed"
    return f"{words} ({training.epochs:g} x {sequences:,.0f} sequences, {packed})"


def _warmup(warmup: int, steps: int) -> str:
    if not warmup:
        return "no warm-up"
    if warmup >= steps:
        return f"warm-up {warmup:,}: the learning rate never gets to its peak"
    return f"warm-up {warmup:,} ({warmup / steps:.0%})"


def layout_lines(settings: Settings) -> list[str]:
    """How the cores are shared, whether that works, and what works where it does not.

    The layout may be one that the settings' own rules refuse.
    """
    resources, layout = settings.resources, layout_of(settings)
    workers = resources.nodes * resources.processes_per_node
    if settings.stack is Stack.CPU:
        return [f"{resources.nodes} x {resources.processes_per_node} processes = {workers} data-parallel"]
    model, machine = find_model(settings.model.model), find_machine(resources.machine)
    copies, left = divmod(workers, layout.cores)
    processes = f"{resources.nodes} x {resources.processes_per_node} processes"
    if left:
        lines = [f"✗ {layout} does not divide {processes}"]
    else:
        lines = [f"{processes} = {layout} x {copies} data-parallel"]
    if model is None or machine is None:
        return lines
    if not left and not any(field.endswith("_parallel") for field in stoppers(settings)):
        needed = neuron_memory(settings, model, layout).total / GIB
        return [*lines, f"about {needed:.1f} of a core's {machine.memory_per_core_gib:g} GiB, by formula"]
    nearest = nearest_layout(settings, model, machine)
    if nearest is None:
        return [*lines, f"✗ no layout of {model.name} fits: take more nodes, or a shorter sequence"]
    return [*lines, f"✗ the nearest that works is {nearest}"]
