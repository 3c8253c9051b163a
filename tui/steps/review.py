"""The Review step: what will happen, and exactly what will run."""

from __future__ import annotations

import difflib

from rich.syntax import Syntax
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Button, Static

from llama_tui.backend.place import SchedulerChoice
from llama_tui.backend.plain import printable
from llama_tui.backend.render import plan_run, render_script
from llama_tui.backend.settings import Settings, Stack, defaults
from llama_tui.backend.stages import STAGES, Stage
from llama_tui.tui.steps.forms import step_of
from llama_tui.tui.steps.pane import StepPane
from llama_tui.tui.widgets.choice import Choice

WHOLE, CHANGES = "whole", "what differs from the defaults"


class ReviewPane(StepPane):
    """Shows the whole; launching is the wizard's."""

    class Wanted(Message):
        """A button was pressed: `launch` or `save`."""

        def __init__(self, what: str) -> None:
            super().__init__()
            self.what = what

    def compose_more(self) -> ComposeResult:
        with Horizontal(id="review-buttons"):
            yield Button("Launch (ctrl+l)", variant="success", id="launch", compact=True)
            yield Button("Save as TOML (ctrl+s)", id="save", compact=True)
        yield Static("", id="review-problems", classes="problem", markup=False)
        yield Static("", id="review-plan", markup=False)
        yield Static("What it will take", classes="script-label")
        yield Static("", id="estimate", markup=False)
        yield Static("What was looked at on the host", classes="script-label")
        yield Static("… connecting", id="checks", markup=False)
        yield Static("The script of stage", classes="script-label")
        yield Choice([f"{stage.number}" for stage in STAGES], "3", id="script-of")
        yield Choice([WHOLE, CHANGES], WHOLE, id="script-as")
        yield Static("", id="script")

    def stops(self) -> list[Widget]:
        return [self.query_one("#launch", Button)]

    def show(self, settings: Settings, problems: dict[str, str], warnings: list[str]) -> None:
        """Shows settings; with problems it says where to mend them, and launching waits."""
        self._settings = settings
        lines = [f"✗ {step_of(field).title}: {field}: {words}" for field, words in problems.items()]
        lines += [f"! {words}" for words in warnings]
        found = self.query_one("#review-problems", Static)
        found.update("\n".join(lines))
        found.display = bool(lines)
        self.query_one("#launch", Button).disabled = bool(problems)
        self.query_one("#review-plan", Static).update(_plan_text(settings))
        self._show_script()

    def show_estimate(self, text: str) -> None:
        """Steps, time, disk, memory and cost, each with its basis."""
        self.query_one("#estimate", Static).update(printable(text))

    def show_checks(self, text: str) -> None:
        """The preflight's findings, a line each."""
        self.query_one("#checks", Static).update(printable(text))

    @on(Choice.Changed)
    def _show_script(self) -> None:
        stage = STAGES[int(self.query_one("#script-of", Choice).value)]
        script = _script(self._settings, stage)
        language = "bash"
        if self.query_one("#script-as", Choice).value == CHANGES:
            usual = _script(defaults(self._settings.stack), stage)
            changed = difflib.unified_diff(
                usual.splitlines(), script.splitlines(), "defaults", "yours", lineterm="", n=1
            )
            script, language = "\n".join(changed) or "The same as with the defaults.", "diff"
        syntax = Syntax(script, language, word_wrap=True, background_color="default")
        self.query_one("#script", Static).update(syntax)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Hands the wish to the wizard."""
        self.post_message(self.Wanted(event.button.id or ""))


def _script(settings: Settings, stage: Stage) -> str:
    plan = plan_run(settings, settings.paths.workspace, f"{settings.name}-YYYYMMDD-HHMMSS")
    return render_script(plan, stage, 1)


def _plan_text(settings: Settings) -> str:
    training, resources = settings.training, settings.resources
    where = settings.where.host or "this machine"
    length = f"{training.max_steps} steps" if training.max_steps else f"{training.epochs:g} epoch(s)"
    workers = resources.nodes * resources.processes_per_node
    replicas = workers // (training.tensor_parallel * training.pipeline_parallel)
    sequences = training.batch_size * training.gradient_accumulation * replicas
    does = {
        Stage.CREATE_ENV: f"the pinned {settings.stack} environment, used again when it is there",
        Stage.DOWNLOAD_MODEL: f"{settings.model.model} and {settings.model.dataset}, {settings.model.held_out} records held out",
        Stage.COMPILE_MODEL: "neuron_parallel_compile of the very same training"
        if settings.stack is Stack.NEURON
        else "a rehearsal of two steps: time and memory",
        Stage.FINETUNE: f"LoRA r {settings.lora.r}, alpha {settings.lora.alpha} on {', '.join(settings.lora.targets)}; "
        f"{length} of {sequences} x {training.sequence_length} tokens, learning rate {training.learning_rate:g}",
        Stage.MODEL_CONSOLIDATION: "one PEFT adapter of all ranks' shards",
        Stage.MERGE_LORA_WEIGHTS: "a Hugging Face model directory",
        Stage.INFERENCE: f"{len(settings.inference.prompts)} prompts and the held-out loss, base and fine-tuned",
    }
    scheduler = settings.where.scheduler
    kind = (
        "what is there (Slurm, or one after another)"
        if scheduler is SchedulerChoice.AUTO
        else scheduler.value
    )
    lines = [
        f"On {where}, in {settings.paths.workspace}, through {kind};",
        f"training on {resources.nodes} node(s) with {resources.processes_per_node} processes each.",
        "",
    ]
    lines += [f"{stage.number} {stage:<20} {does[stage]}" for stage in STAGES]
    return "\n".join(lines)
