"""After a run: the estimate beside what it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llama_tui.backend.catalog.machines import find_machine
from llama_tui.backend.errors import AgentError
from llama_tui.backend.estimates import ON_ALL_NODES, Estimate
from llama_tui.backend.figures import Figure, Unit, total
from llama_tui.backend.layout import RunLayout
from llama_tui.backend.measured import MeasuredRun, measured_run
from llama_tui.backend.runs import Run
from llama_tui.backend.settings import Stack
from llama_tui.backend.stages import STAGES, Stage

MEASURED_DIRECTORIES = {"run/checkpoints": "checkpoints", "run/adapter": "adapter", "run/merged": "merged"}


@dataclass(frozen=True)
class Beside:
    """One figure twice; `actual` is not known while the stage has not ended well."""

    label: str
    estimated: Figure
    actual: Figure

    @property
    def off(self) -> float | None:
        """Estimate over actual: 1.2 is 20 % too much; None where one is not known."""
        if not self.estimated.value or not self.actual.value:
            return None
        return self.estimated.value / self.actual.value


def actual(run: Run) -> dict[str, Figure]:
    """What a run took, by the labels of Estimate.rows; asks the host twice.

    Raises:
        LinkLost: the connection ended.
    """
    layout = run.layout
    files = run.site.link.collect([layout.settings, layout.file("reports"), layout.file("status")])
    return outcome(layout, files, _sizes(run))


def outcome(layout: RunLayout, files: Mapping[str, str], sizes: Mapping[str, float]) -> dict[str, Figure]:
    """The same from files (path to text) of the run directory and sizes (bytes by name) of its directories."""
    found = measured_run(layout, files)
    if found is None:
        return {}
    figures = {
        "Sequences an epoch": _reported(found, "sequences", Unit.SEQUENCES),
        "Optimizer steps": _reported(found, "steps", Unit.STEPS),
        "Tokens of text an epoch": _text(found),
        **{f"Time of {stage}": _time(found, stage) for stage in STAGES},
        "Memory of a process": _process_memory(found),
        "Cost": _cost(found),
    }
    figures["Time of all stages"] = total(
        [_time(found, stage) for stage in STAGES], Unit.SECONDS, "the last attempts"
    )
    for label, name in MEASURED_DIRECTORIES.items():
        if name in sizes:
            figures[f"Disk: {label}"] = Figure(sizes[name], Unit.BYTES, "du", measured=True)
    return {label: figure for label, figure in figures.items() if figure.value is not None}


def beside(estimated: Estimate, took: Mapping[str, Figure]) -> list[Beside]:
    """Each estimated figure with what was measured of it."""
    rows = []
    for label, figure in estimated.rows:
        missing = Figure(None, figure.unit, "not measured")
        rows.append(Beside(label, figure, took.get(label, missing)))
    return rows


def _reported(found: MeasuredRun, name: str, unit: Unit) -> Figure:
    return Figure(found.number(Stage.FINETUNE, name), unit, "finetune's report", measured=True)


def _text(found: MeasuredRun) -> Figure:
    sequences, share = found.number(Stage.FINETUNE, "sequences"), found.number(Stage.FINETUNE, "text_share")
    value = sequences * share * found.settings.training.sequence_length if sequences and share else None
    return Figure(value, Unit.TOKENS, "finetune's report", measured=True)


def _time(found: MeasuredRun, stage: Stage) -> Figure:
    return Figure(found.seconds.get(stage), Unit.SECONDS, "the script's own start and end", measured=True)


def _process_memory(found: MeasuredRun) -> Figure:
    """The cpu stack reports the peak of all processes together."""
    peak = found.number(Stage.FINETUNE, "peak_memory_bytes")
    processes = found.number(Stage.FINETUNE, "processes")
    value = peak / processes if peak and processes and found.settings.stack is Stack.CPU else None
    return Figure(value, Unit.BYTES, "finetune's report", measured=True)


def _cost(found: MeasuredRun) -> Figure:
    """Of the last attempts that ended well; earlier ones cost as well, and are not in it."""
    resources = found.settings.resources
    machine = find_machine(resources.machine)
    catalogued = machine.price_per_hour if machine and found.settings.stack is Stack.NEURON else 0.0
    price = resources.price_per_hour or catalogued
    if not price or set(found.seconds) != set(STAGES):
        return Figure(None, Unit.DOLLARS, "no price, or not all stages have ended well")
    hours = sum(
        seconds / 3600 * (resources.nodes if stage in ON_ALL_NODES else 1)
        for stage, seconds in found.seconds.items()
    )
    return Figure(hours * price, Unit.DOLLARS, f"{price:g} dollars a node and hour", measured=True)


def _sizes(run: Run) -> dict[str, float]:
    """Bytes of directories of the run; nothing where du gives no answer."""
    names = list(MEASURED_DIRECTORIES.values())
    try:
        answer = run.site.link.run(["du", "-sk", *(run.layout.file(name) for name in names)], timeout=20.0)
    except AgentError:
        return {}
    sizes = {}
    for line in answer.stdout.splitlines():
        count, _, path = line.partition("\t")
        name = path.rsplit("/", 1)[-1]
        if count.isdecimal() and name in names:
            sizes[name] = float(count) * 1024
    return sizes
