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

from llama_tui.backend.estimates import Estimate
from llama_tui.backend.foresight import estimate_rows
from llama_tui.backend.place import SchedulerChoice
from llama_tui.backend.plain import count_of, printable
from llama_tui.backend.preflight.check import Check, Result, check_rows
from llama_tui.backend.preflight.checks import all_well
from llama_tui.backend.render import plan_run, render_script
from llama_tui.backend.settings import Settings, Stack, defaults
from llama_tui.backend.stages import STAGES, Stage
from llama_tui.tui.steps.forms import step_of
from llama_tui.tui.steps.pane import StepPane
from llama_tui.tui.widgets.choice import Choice
from llama_tui.tui.widgets.facts import Facts

LAUNCH, MEND = "Launch (ctrl+l)", "To what is wrong (ctrl+l)"
HELP = {
    "launch": "Enter submits all seven stages. What was found on the host that would stop them is asked about first.",
    "save": "Writes the answers to a file, for `llama-tui run` or for a colleague. There is no token in it.",
}
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
            yield Button(LAUNCH, variant="success", id="launch", compact=True)
            yield Button("Save as TOML (ctrl+s)", id="save", compact=True)
        yield Static("", id="review-problems", classes="problem", markup=False)
        yield Facts("… connecting", id="in-the-way")
        yield Static("", id="review-place", markup=False)
        yield Facts(id="review-plan")
        yield Static("What it will take", classes="script-label")
        yield Facts(id="estimate")
        yield Static("What was looked at on the host", classes="script-label")
        yield Facts("… connecting", id="checks")
        yield Static("The script of stage", classes="script-label")
        yield Choice([f"{stage.number}" for stage in STAGES], "3", id="script-of")
        yield Choice([WHOLE, CHANGES], WHOLE, id="script-as")
        yield Static("", id="script")

    def stops(self) -> list[Widget]:
        return [self.query_one("#launch", Button)]

    def help_of(self, widget: Widget) -> str:
        """What to know at a part of this step."""
        return HELP.get(widget.id or "", "")

    def show(self, settings: Settings, problems: dict[str, str], warnings: list[str]) -> None:
        """Shows settings; with problems it says where to mend them, and launching waits."""
        self._settings = settings
        lines = [f"✗ {step_of(field).title}: {field}: {words}" for field, words in problems.items()]
        lines += [f"! {words}" for words in warnings]
        found = self.query_one("#review-problems", Static)
        found.update("\n".join(lines))
        found.display = bool(lines)
        self.query_one("#launch", Button).label = MEND if problems else LAUNCH
        self.show_place(None)
        self.query_one("#review-plan", Facts).show(_plan_rows(settings))
        self._show_script()

    def show_place(self, by_slurm: bool | None) -> None:
        """Where it will run, and by what.

        Args:
            by_slurm: None where that is not known yet.
        """
        self.query_one("#review-place", Static).update(printable(_place_text(self._settings, by_slurm)))

    def show_estimate(self, found: Estimate) -> None:
        """Steps, time, disk, memory and cost, each with its basis."""
        self.query_one("#estimate", Facts).show(estimate_rows(found))

    def tell_checks(self, words: str) -> None:
        """Why there are no findings of the preflight."""
        for facts in self.query("#in-the-way, #checks").results(Facts):
            facts.tell(words)

    def show_checks(self, checks: list[Check]) -> None:
        """The preflight's findings; what failed is above everything else."""
        in_the_way = self.query_one("#in-the-way", Facts)
        if all_well(checks):
            in_the_way.tell("✓ Nothing on the host stands in the way.")
        else:
            in_the_way.show(
                [row for check in checks if check.result is Result.FAIL for row in check_rows(check)]
            )
        self.query_one("#checks", Facts).show([row for check in checks for row in check_rows(check)])

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


def _place_text(settings: Settings, by_slurm: bool | None) -> str:
    scheduler, resources = settings.where.scheduler, settings.resources
    if by_slurm is None and scheduler is not SchedulerChoice.AUTO:
        by_slurm = scheduler is SchedulerChoice.SLURM
    how = {
        True: "by Slurm",
        False: "without Slurm, one stage after another",
        None: "by Slurm where there is one",
    }
    where = f"On {settings.where.host}" if settings.where.host else "On this machine"
    return (
        f"{where}, {how[by_slurm]}, in {settings.paths.workspace}. Training is on "
        f"{count_of(resources.nodes, 'node')} with {count_of(resources.processes_per_node, 'process', 'processes')}"
        + (" each." if resources.nodes > 1 else ".")
    )


def _plan_rows(settings: Settings) -> list[tuple[str, str, str]]:
    training, resources, model = settings.training, settings.resources, settings.model
    length = (
        count_of(training.max_steps, "step") if training.max_steps else count_of(training.epochs, "epoch")
    )
    workers = resources.nodes * resources.processes_per_node
    replicas = workers // (training.tensor_parallel * training.pipeline_parallel)
    sequences = training.batch_size * training.gradient_accumulation * replicas
    does = {
        Stage.CREATE_ENV: f"the pinned {settings.stack} environment, used again when it is there",
        Stage.DOWNLOAD_MODEL: f"{model.model} and {model.dataset}, {count_of(model.held_out, 'record')} held out",
        Stage.COMPILE_MODEL: "neuron_parallel_compile of the very same training"
        if settings.stack is Stack.NEURON
        else "a rehearsal of two steps: time and memory",
        Stage.FINETUNE: f"LoRA r {settings.lora.r}, alpha {settings.lora.alpha} on {', '.join(settings.lora.targets)}; "
        f"{length} of {sequences} x {training.sequence_length} tokens, learning rate {training.learning_rate:g}",
        Stage.MODEL_CONSOLIDATION: "one PEFT adapter of all ranks' shards",
        Stage.MERGE_LORA_WEIGHTS: "a Hugging Face model directory",
        Stage.INFERENCE: f"{count_of(len(settings.inference.prompts), 'prompt')} and the held-out loss, base and "
        "fine-tuned",
    }
    return [(str(stage.number), str(stage), does[stage]) for stage in STAGES]
