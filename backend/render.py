"""Settings in, files of a run directory out. Pure: nothing is read from or written to the host."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Protocol

from llama_tui import __version__
from llama_tui.backend.catalog.machines import machines
from llama_tui.backend.layout import RunLayout, Workspace, directory_name
from llama_tui.backend.schedulers.slurm import directives
from llama_tui.backend.settings import SHIPPED_DATASET, Settings, Stack
from llama_tui.backend.settings_file import to_toml
from llama_tui.backend.stack_file import StackFile, load_stack
from llama_tui.backend.stages import Stage

if TYPE_CHECKING:
    from jinja2 import Environment

COMPILE_STEPS = 10
REHEARSAL_STEPS = 2


@dataclass(frozen=True)
class RunPlan:
    """A run that can be rendered: settings, and where everything lies on the host."""

    settings: Settings
    workspace: Workspace
    layout: RunLayout
    stack: StackFile

    @property
    def env_dir(self) -> str:
        """The environment of the stack's pins, shared by all runs; or the ready-made one of the settings."""
        return self.settings.paths.environment or self._own_env

    @property
    def env_marker(self) -> str:
        """What says that the environment is complete and checked. A ready-made one cannot be written to."""
        ready_made = self.settings.paths.environment
        if not ready_made:
            return f"{self._own_env}.complete"
        return f"{self._own_env}.{hashlib.sha256(ready_made.encode()).hexdigest()[:8]}.complete"

    @property
    def _own_env(self) -> str:
        return self.workspace.environment(self.stack.name, self.stack.pins_hash)

    @property
    def model_dir(self) -> str:
        """The base model, shared by all runs that name the same one."""
        revision = self.settings.model.revision
        source = self.settings.model.model
        return self.workspace.model(source) + (f"@{revision.replace('/', '_')}" if revision else "")

    @property
    def dataset_dir(self) -> str:
        """The data set as split for this run; the same split is shared."""
        data = self.settings.model
        split = json.dumps([data.dataset, data.dataset_split, data.held_out, self.settings.training.seed])
        if data.dataset == SHIPPED_DATASET:
            split += hashlib.sha256(_shipped_dataset().encode()).hexdigest()
        digest = hashlib.sha256(split.encode()).hexdigest()[:8]
        return self.workspace.dataset(f"{directory_name(data.dataset)}-{digest}")

    @property
    def dataset_source(self) -> str:
        """What download_model reads: a hub id, or an absolute path on the host."""
        source = self.settings.model.dataset
        return self.layout.file("data/captain-chat.jsonl") if source == SHIPPED_DATASET else source


def plan_run(settings: Settings, workspace: str, run_id: str) -> RunPlan:
    """The plan of a run in an absolute workspace."""
    space = Workspace(workspace)
    return RunPlan(settings, space, space.run(run_id), load_stack(settings.stack))


def comment_of(run_id: str, stage: Stage, attempt: int) -> str:
    """What a job carries, so that it is found again: <run-id>/<stage>/<attempt>."""
    return f"{run_id}/{stage}/{attempt}"


def render_run_files(plan: RunPlan) -> dict[str, str]:
    """What a run directory holds before anything is submitted: {absolute path: text}."""
    layout, settings = plan.layout, plan.settings
    contents = {
        layout.settings: to_toml(settings),
        layout.file("stack.json"): plan.stack.as_json,
        layout.file("prompts.json"): _prompts(settings),
    }
    if settings.model.dataset == SHIPPED_DATASET:
        contents[plan.dataset_source] = _shipped_dataset()
    for program in files("llama_tui.templates").joinpath("jobs").iterdir():
        if program.name.endswith(".py"):
            contents[layout.file(f"jobs/{program.name}")] = program.read_text(encoding="utf-8")
    return contents


def render_script(plan: RunPlan, stage: Stage, attempt: int) -> str:
    """The sbatch script of one attempt of a stage."""
    comment = comment_of(plan.layout.run_id, stage, attempt)
    log, arguments = plan.layout.log(stage, attempt), _arguments(plan, stage)
    return render_job(plan, f"{stage}.sh.j2", stage, JobHead(stage, attempt, comment, log), arguments)


class HasPurpose(Protocol):
    """What a script is for: a stage, or something like one. Its str() names its status file."""

    @property
    def number(self) -> int:
        """Where it stands among the stages."""

    @property
    def purpose(self) -> str:
        """In a few words."""


@dataclass(frozen=True)
class JobHead:
    """What differs from script to script: what it does, its comment, and where it prints."""

    what: HasPurpose
    attempt: int
    comment: str
    log: str


def render_job(plan: RunPlan, template: str, like: Stage, head: JobHead, arguments: list[str]) -> str:
    """A script from one of the sbatch templates; `like` says which stage's resources it asks for."""
    settings = plan.settings
    return (
        _environment()
        .get_template(template)
        .render(
            version=__version__,
            stack=settings.stack.value,
            stage=head.what,
            attempt=head.attempt,
            name=head.comment,
            comment=head.comment,
            log=head.log,
            options=directives(like, settings.resources) + settings.resources.extra,
            workspace=plan.workspace.path,
            run_dir=plan.layout.path,
            env_dir=plan.env_dir,
            env_marker=plan.env_marker,
            model_dir=plan.model_dir,
            dataset_dir=plan.dataset_dir,
            token_file=plan.workspace.token,
            python=settings.where.python,
            nodes=settings.resources.nodes,
            processes=settings.resources.processes_per_node,
            machine=machines()[settings.resources.machine],
            arguments=arguments,
        )
    )


def _prompts(settings: Settings) -> str:
    system = settings.inference.system_prompt or None
    prompts = [
        {"name": f"prompt-{number}", "system": system, "user": user}
        for number, user in enumerate(settings.inference.prompts, 1)
    ]
    return json.dumps({"prompts": prompts}, indent=2, ensure_ascii=False) + "\n"


@cache
def _shipped_dataset() -> str:
    return files("llama_tui.templates").joinpath("data/captain-chat.jsonl").read_text(encoding="utf-8")


def _arguments(plan: RunPlan, stage: Stage) -> list[str]:
    """The program's options as shell words, one `--option value` each."""
    report = f'--report "$RUN_DIR/reports/{stage}.json"'
    match stage:
        case Stage.CREATE_ENV:
            return [*_create_env(plan), report]
        case Stage.DOWNLOAD_MODEL:
            return [*_download(plan), report]
        case Stage.COMPILE_MODEL if plan.settings.stack is Stack.NEURON:
            return _training(plan, COMPILE_STEPS)
        case Stage.COMPILE_MODEL:
            return [*_training(plan), f"--rehearse {REHEARSAL_STEPS}", report]
        case Stage.FINETUNE:
            return [*_training(plan), report]
        case Stage.MODEL_CONSOLIDATION:
            return ['--run-dir "$RUN_DIR"', report]
        case Stage.MERGE_LORA_WEIGHTS:
            return ['--model-dir "$MODEL_DIR"', '--run-dir "$RUN_DIR"', report]
        case Stage.INFERENCE:
            return [*_inference(plan), report]


def option(name: str, value: object) -> str:
    """A program's option as shell words."""
    return f"--{name} {shlex.quote(str(value))}"


def _create_env(plan: RunPlan) -> list[str]:
    arguments = ['--stack-file "$RUN_DIR/stack.json"', '--env-dir "$ENV_DIR"', '--marker "$ENV_MARKER"']
    if plan.settings.paths.environment:
        arguments.append("--ready-made")
    if plan.settings.paths.package_index:
        arguments.append(option("extra-index-url", plan.settings.paths.package_index))
    return arguments


def _download(plan: RunPlan) -> list[str]:
    model = plan.settings.model
    arguments = [
        option("model", model.model),
        '--model-dir "$MODEL_DIR"',
        option("dataset", plan.dataset_source),
        '--dataset-dir "$DATASET_DIR"',
        option("dataset-split", model.dataset_split),
        option("held-out", model.held_out),
        option("seed", plan.settings.training.seed),
        '--prompts "$RUN_DIR/prompts.json"',
    ]
    return arguments + ([option("revision", model.revision)] if model.revision else [])


def _training(plan: RunPlan, max_steps: int | None = None) -> list[str]:
    lora, training = plan.settings.lora, plan.settings.training
    values: dict[str, object] = {
        "backend": plan.settings.stack,
        "lora-r": lora.r,
        "lora-alpha": lora.alpha,
        "lora-dropout": lora.dropout,
        "lora-targets": ",".join(lora.targets),
        "sequence-length": training.sequence_length,
        "epochs": training.epochs,
        "max-steps": training.max_steps if max_steps is None else max_steps,
        "batch-size": training.batch_size,
        "gradient-accumulation": training.gradient_accumulation,
        "learning-rate": training.learning_rate,
        "weight-decay": training.weight_decay,
        "warmup-steps": training.warmup_steps,
        "save-steps": training.save_steps,
        "save-total-limit": training.save_total_limit,
        "logging-steps": training.logging_steps,
        "seed": training.seed,
        "tensor-parallel": training.tensor_parallel,
        "pipeline-parallel": training.pipeline_parallel,
    }
    return [
        '--model-dir "$MODEL_DIR"',
        '--dataset-dir "$DATASET_DIR"',
        '--run-dir "$RUN_DIR"',
        *(option(name, value) for name, value in values.items()),
        "--packing" if training.packing else "--no-packing",
        "--response-loss-only" if training.response_loss_only else "--no-response-loss-only",
    ]


def _inference(plan: RunPlan) -> list[str]:
    asked = plan.settings.inference
    return [
        '--model-dir "$MODEL_DIR"',
        '--run-dir "$RUN_DIR"',
        '--dataset-dir "$DATASET_DIR"',
        '--prompts "$RUN_DIR/prompts.json"',
        option("max-new-tokens", asked.max_new_tokens),
        option("temperature", asked.temperature),
        option("top-p", asked.top_p),
        option("repetition-penalty", asked.repetition_penalty),
        option("seed", plan.settings.training.seed),
    ]


def directive(text: str) -> str:
    """A value in an #SBATCH line: sbatch reads double quotes and backslashes there as a shell does."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def directive_path(path: str) -> str:
    """A path in an #SBATCH line, where a per cent sign begins a pattern."""
    return directive(path.replace("%", "%%"))


def directive_option(option: str) -> str:
    """`--name=value` with the value quoted where it needs to be."""
    name, equals, value = option.partition("=")
    plain = all(char.isalnum() or char in "_.:@%+-,/" for char in value)
    return option if plain else f"{name}{equals}{directive(value)}"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("llama_tui.templates", "sbatch"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(
        q=shlex.quote,
        directive=directive,
        directive_path=directive_path,
        directive_option=directive_option,
    )
    return environment
