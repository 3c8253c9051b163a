"""What earlier runs took: the first basis of every estimate."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llama_tui.backend.catalog.models import find_model
from llama_tui.backend.layout import RunLayout
from llama_tui.backend.lengths import Packing
from llama_tui.backend.run_ids import run_ids
from llama_tui.backend.settings import Settings, SettingsError, Stack
from llama_tui.backend.settings_file import from_toml
from llama_tui.backend.site import Site
from llama_tui.backend.stages import STAGES, Stage
from llama_tui.backend.states import read_status

# Older runs tell nothing that newer ones do not.
RUNS_READ = 30


@dataclass(frozen=True)
class Speed:
    """How fast a training like this one went.

    Attributes:
        tokens: computed in a second by all processes; on Neuron with the padding, on a CPU text only.
        startup: seconds of the stage before and after the steps.
    """

    tokens: float
    startup: float
    basis: str


@dataclass(frozen=True)
class MeasuredRun:
    """What one run's reports and status files say.

    Attributes:
        seconds: of the stages that ended well.
    """

    run_id: str
    settings: Settings
    reports: Mapping[Stage, Mapping[str, Any]]
    seconds: Mapping[Stage, float]

    def number(self, stage: Stage, *path: str) -> float | None:
        """A number in a stage's report; None when it is not there."""
        found: Any = self.reports.get(stage, {})
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        usable = isinstance(found, int | float) and not isinstance(found, bool)
        return float(found) if usable else None

    @property
    def computed_per_second(self) -> float | None:
        """Tokens computed in a second while it trained."""
        text = self.number(Stage.FINETUNE, "tokens_per_second")
        share = self.number(Stage.FINETUNE, "text_share")
        if not text or not share:
            return None
        return text if self.settings.stack is Stack.CPU else text / share

    @property
    def text_tokens(self) -> float | None:
        """Tokens of text that the whole training saw."""
        share, steps = self.number(Stage.FINETUNE, "text_share"), self.number(Stage.FINETUNE, "steps")
        if share is None or steps is None:
            return None
        return steps * sequences_in_step(self.settings) * self.settings.training.sequence_length * share

    @property
    def startup(self) -> float:
        """Seconds of stage 3 that were not steps; 0 where that is not known."""
        whole, speed, text = (
            self.seconds.get(Stage.FINETUNE),
            self.number(Stage.FINETUNE, "tokens_per_second"),
            self.text_tokens,
        )
        resumed = self.number(Stage.FINETUNE, "resumed_from")
        if not whole or not speed or not text or resumed:
            return 0.0
        return max(0.0, whole - text / speed)


def sequences_in_step(settings: Settings) -> int:
    """Sequences in one optimizer step, over all data-parallel copies: as templates/jobs/plan.py counts."""
    training, resources = settings.training, settings.resources
    copies = (
        resources.nodes
        * resources.processes_per_node
        // (training.tensor_parallel * training.pipeline_parallel)
    )
    return training.batch_size * training.gradient_accumulation * max(1, copies)


@dataclass(frozen=True)
class Measured:
    """Runs that told of themselves, newest first."""

    runs: tuple[MeasuredRun, ...]

    def without(self, run_id: str) -> Measured:
        """All but one: to see what would have been estimated before it."""
        return Measured(tuple(run for run in self.runs if run.run_id != run_id))

    def speed(self, settings: Settings) -> Speed | None:
        """Of the most similar training on this stack (and machine): same layout, else same model, else by size."""
        trained = [run for run in self._of_stack(settings) if run.computed_per_second]
        same_model = [run for run in trained if run.settings.model.model == settings.model.model]
        same_layout = [run for run in same_model if _layout(run.settings) == _layout(settings)]
        for run in (*same_layout, *same_model, *trained):
            speed = _scaled(run, settings)
            if speed is not None:
                return speed
        return None

    def packing(self, settings: Settings) -> tuple[Packing, str] | None:
        """What an earlier run with the same data, model and sequence length packed it into."""
        for run in self._of_stack(settings):
            sequences = run.number(Stage.FINETUNE, "sequences") or run.number(
                Stage.COMPILE_MODEL, "sequences"
            )
            share = run.number(Stage.FINETUNE, "text_share") or run.number(Stage.COMPILE_MODEL, "text_share")
            if sequences and share and _data(run.settings) == _data(settings):
                text = sequences * settings.training.sequence_length * share
                return Packing(int(sequences), round(text)), f"packed so by {run.run_id}"
        return None

    def stage_seconds(self, stage: Stage, settings: Settings) -> tuple[float, str] | None:
        """How long a stage took in the newest run in which it did the same work."""
        for run in self._of_stack(settings):
            if stage in run.seconds and _work(stage, run.settings) == _work(stage, settings):
                return run.seconds[stage], f"as in {run.run_id}"
        return None

    def model_bytes(self, settings: Settings) -> tuple[float, str] | None:
        """What the model took on disk when it was last downloaded."""
        for run in self.runs:
            found = run.number(Stage.DOWNLOAD_MODEL, "model", "bytes")
            if found and run.settings.model.model == settings.model.model:
                return found, f"as downloaded in {run.run_id}"
        return None

    def _of_stack(self, settings: Settings) -> Iterator[MeasuredRun]:
        for run in self.runs:
            same_machine = run.settings.resources.machine is settings.resources.machine
            if run.settings.stack is settings.stack and (same_machine or settings.stack is Stack.CPU):
                yield run


def _workers(settings: Settings) -> int:
    return settings.resources.nodes * settings.resources.processes_per_node


def _layout(settings: Settings) -> tuple[object, ...]:
    training = settings.training
    shape = (training.sequence_length, training.batch_size, tuple(settings.lora.targets))
    return (_workers(settings), training.tensor_parallel, training.pipeline_parallel, *shape)


def _data(settings: Settings) -> tuple[object, ...]:
    """What decides into which sequences a data set is packed."""
    training, data = settings.training, settings.model
    source = (data.model, data.revision, data.dataset, data.dataset_split, data.held_out)
    shape = (training.seed, training.sequence_length, training.packing)
    return (*source, *shape, settings.inference.system_prompt)


def _work(stage: Stage, settings: Settings) -> tuple[object, ...]:
    """What decides how long a stage takes."""
    model, asked = settings.model, settings.inference
    match stage:
        case Stage.CREATE_ENV:
            return ()
        case Stage.DOWNLOAD_MODEL:
            return (model.model, model.revision, model.dataset)
        case Stage.COMPILE_MODEL:
            return (model.model, *_layout(settings), settings.training.gradient_accumulation)
        case Stage.INFERENCE:
            return (model.model, model.held_out, len(asked.prompts), asked.max_new_tokens)
        case _:
            return (model.model, settings.lora.r, tuple(settings.lora.targets))


def _scaled(run: MeasuredRun, settings: Settings) -> Speed | None:
    """The run's speed, for another number of processes and another model's size."""
    own, other = find_model(settings.model.model), find_model(run.settings.model.model)
    same_model = run.settings.model.model == settings.model.model
    measured = run.computed_per_second
    if measured is None or (not same_model and (own is None or other is None)):
        return None
    factor, notes = 1.0, []
    if _workers(run.settings) != _workers(settings):
        factor *= _workers(settings) / _workers(run.settings)
        notes.append(f"{_workers(run.settings)} processes scaled to {_workers(settings)}")
    if not same_model and own is not None and other is not None:
        factor *= other.multiplied_parameters / own.multiplied_parameters
        notes.append(f"{other.name} scaled by its parameters")
    scaled = f" ({', '.join(notes)})" if notes else ""
    return Speed(measured * factor, run.startup, f"{measured:,.0f} tokens/s in {run.run_id}{scaled}")


def measured_of(site: Site) -> Measured:
    """What the runs in the workspace measured; reads the newest RUNS_READ, all files in one request.

    Raises:
        LinkLost: the connection ended.
    """
    layouts = [site.workspace.run(name) for name in run_ids(site)[:RUNS_READ]]
    paths = [
        path
        for layout in layouts
        for path in (layout.settings, layout.file("reports"), layout.file("status"))
    ]
    files = site.link.collect(paths) if paths else {}
    runs = (measured_run(layout, files) for layout in layouts)
    return Measured(tuple(run for run in runs if run is not None))


def measured_run(layout: RunLayout, files: Mapping[str, str]) -> MeasuredRun | None:
    """What files (path to text) of a run directory measured; None when they are no run's."""
    try:
        settings = from_toml(files[layout.settings], layout.run_id)
    except (KeyError, SettingsError):
        return None
    reports, seconds = {}, {}
    for stage in STAGES:
        report = _object(files.get(layout.report(stage), ""))
        if report:
            reports[stage] = report
        status = read_status(files.get(layout.status(stage), ""))
        if status is not None and status.ended is not None and status.exit_code == 0:
            seconds[stage] = max(0.0, status.ended - status.started)
    return MeasuredRun(layout.run_id, settings, reports, seconds)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
