"""The wizard's steps, and which fields each asks for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llama_tui.backend.catalog.machines import machines
from llama_tui.backend.settings import SHIPPED_DATASET, SMOLLM2_WHEEL, Lora, Resources, Training
from llama_tui.backend.stages import Stage


@dataclass(frozen=True)
class StepForm:
    """One step: `fields` are dotted names of the settings, in the order in which they are asked."""

    key: str
    title: str
    intro: str
    fields: tuple[str, ...] = ()

    def holds(self, field: str) -> bool:
        """Whether a problem with this field is mended here."""
        return field in self.fields


def _all_of(section: str, model: type[Lora | Training | Resources]) -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for name in model.model_fields)


WHERE = StepForm(
    "where",
    "Where",
    "This machine, or a host of your ~/.ssh/config. With the cpu stack a small model trains on any machine. "
    "Enter leads through all fields.",
    ("name", "stack", "where.host", "where.as_user", "where.ssh", "where.python", "where.scheduler"),
)
TOKEN = StepForm(
    "token",
    "Token",
    "Gated models such as Llama 3 need a Hugging Face token. It is put into one file on the host that only you "
    "can read, and nowhere else. Leave it empty for a model that is not gated, or when the host has it already.",
)
MODEL = StepForm(
    "model",
    "Model and data",
    "What is trained, on what, and what both models are asked in the end.",
    (
        "model.model",
        "model.revision",
        "model.dataset",
        "model.dataset_split",
        "model.held_out",
        "inference.system_prompt",
        "inference.prompts",
        "inference.max_new_tokens",
        "inference.temperature",
        "inference.top_p",
        "inference.repetition_penalty",
    ),
)
PATHS = StepForm(
    "paths",
    "Paths",
    "Everything is kept in one directory of the shared file system; every other path follows from it.",
    ("paths.workspace", "paths.environment", "paths.package_index"),
)
LORA = StepForm(
    "lora",
    "LoRA",
    "The adapter, and how it is trained.",
    _all_of("lora", Lora) + _all_of("training", Training),
)
RESOURCES = StepForm(
    "resources",
    "Resources",
    "What to ask the scheduler for. Empty names take the cluster's defaults.",
    _all_of("resources", Resources),
)
REVIEW = StepForm("review", "Review", "What will happen, and exactly what will run.")

STEPS: tuple[StepForm, ...] = (WHERE, TOKEN, MODEL, PATHS, LORA, RESOURCES, REVIEW)

# Offered while typing; anything else may be typed as well.
USUAL: dict[str, tuple[str, ...]] = {
    "model.model": (
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "meta-llama/Llama-3.1-8B-Instruct",
        "meta-llama/Llama-3.2-1B-Instruct",
        "meta-llama/Llama-3.2-3B-Instruct",
        "meta-llama/Llama-3.3-70B-Instruct",
        SMOLLM2_WHEEL,
    ),
    "model.dataset": ("databricks/databricks-dolly-15k", SHIPPED_DATASET),
    "resources.machine": tuple(machines()),
    "paths.workspace": ("/fsx/", "~/llama-tui"),
    "paths.environment": ("/opt/aws_neuronx_venv_pytorch_2_8",),
}


# Where what a stage depends on is asked for.
_OF_STAGE = {
    Stage.CREATE_ENV: PATHS,
    Stage.DOWNLOAD_MODEL: MODEL,
    Stage.COMPILE_MODEL: LORA,
    Stage.FINETUNE: LORA,
    Stage.MODEL_CONSOLIDATION: LORA,
    Stage.MERGE_LORA_WEIGHTS: RESOURCES,
    Stage.INFERENCE: MODEL,
}


def step_of(field: str) -> StepForm:
    """The step where a field is asked for; Review for what no step asks for."""
    if field == TOKEN.key:
        return TOKEN
    return next((step for step in STEPS if step.holds(field)), REVIEW)


def first_wrong(problems: Iterable[str], step: StepForm | None = None) -> str | None:
    """The first field that has a problem, in the order in which they are asked for.

    Args:
        step: look only at this one.
    """
    order = {field: at for at, field in enumerate(field for one in STEPS for field in _asked_in(one))}
    found = [field for field in problems if step is None or field in _asked_in(step)]
    return min(found, key=lambda field: order.get(field, len(order)), default=None)


def _asked_in(step: StepForm) -> tuple[str, ...]:
    return (TOKEN.key,) if step is TOKEN else step.fields


def step_named(key: str) -> StepForm:
    """The step of that key; the first one for any other text."""
    return next((step for step in STEPS if step.key == key), WHERE)


def step_of_stage(stage: Stage) -> StepForm:
    """The step that is most akin to a stage."""
    return _OF_STAGE[stage]
