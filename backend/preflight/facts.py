"""What several checks need to know, each found out once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from llama_tui.backend.catalog.models import Model, find_model
from llama_tui.backend.preflight.check import Once
from llama_tui.backend.preflight.remote import ask, hub_program
from llama_tui.backend.render import plan_run
from llama_tui.backend.schedulers.base import FIELD
from llama_tui.backend.schedulers.slurm import refusal
from llama_tui.backend.settings import SHIPPED_DATASET, SMOLLM2_WHEEL, Settings
from llama_tui.backend.site import Site

HUB = "https://huggingface.co"
# Seconds. A command on the host is ended before its check is given up; the hub's answers come in before that.
COMMAND_TIMEOUT = 7.0
HUB_PATIENCE = 4.0
HUB_DEADLINE = 6.0
FILE_LIMIT = 4 * 1024 * 1024
# Of the node states that sinfo has, those that let a job start sooner or later. A suffix is cut off before; `*` is none.
_UP = {"idle", "mixed", "allocated", "completing", "planned", "reserved"}
_SUFFIXES = "~#!%$@^+-"


@dataclass(frozen=True)
class Node:
    """A compute node as sinfo shows it; one in two partitions comes twice."""

    name: str
    host: str
    partition: str
    default: bool
    state: str
    cpus: int
    gres: str
    features: tuple[str, ...]
    reason: str

    @property
    def up(self) -> bool:
        """Whether jobs can start here, now or after others."""
        return self.state.rstrip(_SUFFIXES) in _UP


@dataclass(frozen=True)
class Answer:
    """What the hub said to one question; status 0 where nothing came back.

    Attributes:
        code: the hub's own name of a refusal, such as GatedRepo.
        said: its words, or why there is no answer.
    """

    status: int
    code: str
    said: str
    data: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the question was answered."""
        return self.status in {200, 206}


@dataclass(frozen=True)
class HubAnswers:
    """All that was asked of the hub at once, from the host."""

    endpoint: str
    token_there: bool
    token_mode: int
    answers: dict[str, Answer]

    def get(self, question: str) -> Answer | None:
        """The answer to a question; None when it was not asked."""
        return self.answers.get(question)


class Facts:
    """A site and settings, with what is found out of them."""

    def __init__(self, site: Site, settings: Settings) -> None:
        self.site = site
        self.settings = settings
        self.plan = plan_run(settings, site.workspace.path, "llama-tui-preflight")
        self.markers: Once[set[str]] = Once(self._find_markers)
        self.nodes: Once[list[Node]] = Once(self._find_nodes)
        self.disk: Once[dict[str, Any]] = Once(lambda: site.link.call("disk", path=self.plan.workspace.path))
        self.hub: Once[HubAnswers | None] = Once(self._ask_hub)
        self.config: Once[dict[str, Any] | None] = Once(self._find_config)

    @property
    def on_slurm(self) -> bool:
        """Whether jobs go to a Slurm, not to this one machine."""
        return self.site.on_slurm

    @property
    def environment_there(self) -> bool:
        """Whether stage 0 has nothing to do."""
        return self.plan.env_marker in self.markers()

    @property
    def model_there(self) -> bool:
        """Whether the base model is in the workspace."""
        return f"{self.plan.model_dir}/.complete" in self.markers()

    @property
    def dataset_there(self) -> bool:
        """Whether the data set is in the workspace, split as for this run."""
        return f"{self.plan.dataset_dir}/.complete" in self.markers()

    @property
    def hub_model(self) -> str:
        """The model's name on the hub, if it has to come from there."""
        source = self.settings.model.model
        return "" if source == SMOLLM2_WHEEL or _is_path(source) or self.model_there else source

    @property
    def hub_dataset(self) -> str:
        """The data set's name on the hub, if it has to come from there."""
        source = self.settings.model.dataset
        return "" if source == SHIPPED_DATASET or _is_path(source) or self.dataset_there else source

    @property
    def model_folder(self) -> str:
        """Where the model's files are on the host; empty while they are not."""
        source = self.settings.model.model
        if self.model_there:
            return self.plan.model_dir
        return self.site.absolute(source) if _is_path(source) else ""

    def model(self) -> Model | None:
        """The model's shapes: as the catalogue knows them, else by its config.json; None when neither is there."""
        known = find_model(self.settings.model.model)
        if known is not None:
            return known
        return model_from_config(self.settings.model.model, self.config() or {})

    def partition_nodes(self, nodes: Iterable[Node]) -> list[Node]:
        """The nodes of the partitions that the settings name, or of the default one; each once."""
        wanted = self.settings.resources.partition.split(",")
        chosen = [node for node in nodes if node.partition in wanted or (wanted == [""] and node.default)]
        return list({node.name: node for node in chosen}.values())

    def text(self, path: str) -> str | None:
        """A file on the host; None when it is not there."""
        return self.site.link.read_text(path, FILE_LIMIT)

    def _find_markers(self) -> set[str]:
        plan = self.plan
        asked = [plan.env_marker, f"{plan.model_dir}/.complete", f"{plan.dataset_dir}/.complete"]
        return set(self.site.link.collect(asked))

    def _find_nodes(self) -> list[Node]:
        columns = FIELD.join(("%N", "%n", "%P", "%T", "%c", "%G", "%f", "%E"))
        result = self.site.link.run(["sinfo", "-h", "-a", "-N", "-o", columns], timeout=COMMAND_TIMEOUT)
        if result.exit != 0:
            raise refusal("sinfo", result)
        return [node for line in result.stdout.splitlines() if (node := _node(line)) is not None]

    def _ask_hub(self) -> HubAnswers | None:
        if not self.hub_model and not self.hub_dataset:
            return None
        model = self.settings.model
        request = {
            "endpoint": HUB,
            "token_file": self.plan.workspace.token,
            "model": self.hub_model,
            "revision": model.revision,
            "dataset": self.hub_dataset,
            "split": model.dataset_split,
            "patience": HUB_PATIENCE,
            "deadline": HUB_DEADLINE,
        }
        answer = ask(self.site, hub_program(), request, COMMAND_TIMEOUT)
        token = answer["token"]
        answers = {name: _answer(reply) for name, reply in answer["answers"].items()}
        return HubAnswers(str(answer["endpoint"]), bool(token["there"]), int(token["mode"]), answers)

    def _find_config(self) -> dict[str, Any] | None:
        if self.model_folder:
            return json_object(self.text(f"{self.model_folder}/config.json"))
        answers = self.hub() if self.hub_model else None
        reply = answers.get("config.json") if answers else None
        return json_object(reply.data.get("body")) if reply is not None and reply.ok else None


def _is_path(source: str) -> bool:
    return source.startswith(("/", "~/"))


def _answer(reply: dict[str, Any]) -> Answer:
    return Answer(int(reply["status"]), str(reply.get("code", "")), str(reply.get("said", "")), reply)


def _node(line: str) -> Node | None:
    fields = line.split(FIELD)
    if len(fields) != 8:
        return None
    name, host, partition, state, cpus, gres, features, reason = fields
    return Node(
        name=name,
        host=host,
        partition=partition.rstrip("*"),
        default=partition.endswith("*"),
        state=state,
        cpus=int(cpus) if cpus.isdecimal() else 0,
        gres="" if gres == "(null)" else gres,
        features=() if features == "(null)" else tuple(features.split(",")),
        reason="" if reason == "none" else reason,
    )


def json_object(text: str | None) -> dict[str, Any] | None:
    """The JSON object in a text; None when there is none."""
    try:
        data = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def model_from_config(name: str, config: dict[str, Any]) -> Model | None:
    """A model's shapes from its config.json; None when they are not all there."""
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    try:
        model = Model(
            name=name,
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            heads=config["num_attention_heads"],
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,  # type: ignore[operator]
            intermediate=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            tied_embeddings=bool(config.get("tie_word_embeddings")),
            max_positions=config["max_position_embeddings"],
            parameters=1,
            bytes_on_disk=1,
            gated=False,
            template_tokens=(0, 0),
            layouts=((1, 1),),
        )
    except (KeyError, TypeError, ZeroDivisionError, ValidationError):
        return None
    counted = model.counted_parameters
    return model.model_copy(update={"parameters": counted, "bytes_on_disk": 2 * counted})
