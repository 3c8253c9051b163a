"""Answers that follow from others: what nobody gave changes with what somebody did."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import cache
from typing import Any

from llama_tui.backend.catalog.machines import find_machine
from llama_tui.backend.catalog.models import find_model
from llama_tui.backend.dotted import field_names, get_answer, put_answer
from llama_tui.backend.layouts import nearest_layout
from llama_tui.backend.memory import Layout
from llama_tui.backend.settings import Settings, Stack, defaults, validated

_PROCESSES = "resources.processes_per_node"
_TENSOR, _PIPELINE = "training.tensor_parallel", "training.pipeline_parallel"
_WARMUP = "training.warmup_steps"
# Not of the stack: where things are, and what was chosen.
_OF_NO_STACK = frozenset(
    {
        "stack",
        "where.host",
        "where.as_user",
        "where.ssh",
        "where.python",
        "paths.workspace",
        "paths.package_index",
    }
)


@dataclass(frozen=True)
class Follower:
    """An answer that follows from others.

    Attributes:
        source: what it follows from, as the fields are called.
        why: a sentence.
    """

    value: Any
    source: str
    why: str


_Rule = Callable[[Settings, Settings], dict[str, Follower]]


def given_answers(settings: Settings) -> set[str]:
    """The fields whose answers somebody gave: neither the stack's default nor what follows from other answers."""
    data, usual = settings.model_dump(mode="json"), usual_settings(settings.stack)
    usual_data = usual.model_dump(mode="json")
    given = {
        path
        for path in field_names(Settings)
        if path not in _FOLLOWING and get_answer(data, path) != get_answer(usual_data, path)
    }
    for paths, rule in _RULES:
        found = rule(settings, usual)
        given.update(path for path in paths if path in found and get_answer(data, path) != found[path].value)
    return given


def followers(data: dict[str, Any], given: Set[str], settings: Settings | None = None) -> dict[str, Follower]:
    """What follows from the answers in `data`, for fields that nobody gave.

    Args:
        settings: what `loosely` makes of the data, where that is known already.

    Raises:
        SettingsError: the other answers are not right.
    """
    found: dict[str, Follower] = {}
    settings = settings or loosely(data)
    for paths, rule in _RULES:
        # A layout is chosen as a whole: where a part was given, the rest is left to the person.
        if not given.isdisjoint(paths):
            continue
        new = rule(settings, usual_settings(settings.stack))
        found |= new
        if any(str(one.value) != str(get_answer(data, path)) for path, one in new.items()):
            data = copy.deepcopy(data)
            for path, one in new.items():
                put_answer(data, path, one.value)
            settings = loosely(data)
    return found


@cache
def usual_settings(stack: Stack) -> Settings:
    """The stack's defaults, made once: only to look at, since settings can be changed."""
    return defaults(stack)


def of_stack(stack: Stack, given: Set[str]) -> dict[str, Any]:
    """The stack's own answers to all that nobody gave and that depends on it."""
    usual = usual_settings(stack).model_dump(mode="json")
    paths = set(field_names(Settings)) - given - _OF_NO_STACK
    return {path: get_answer(usual, path) for path in paths}


def with_layout(settings: Settings, layout: Layout) -> Settings:
    """The settings with another layout, which is not checked: it may be one that does not work."""
    training = settings.training.model_copy(
        update={"tensor_parallel": layout.tensor, "pipeline_parallel": layout.pipeline}
    )
    return settings.model_copy(update={"training": training})


def loosely(data: dict[str, Any]) -> Settings:
    """The settings, of which only layout and warm-up may not fit the rest.

    Raises:
        SettingsError: another answer is not right.
    """
    neutral = copy.deepcopy(data)
    layout = Layout(*(_whole(get_answer(data, path)) for path in (_TENSOR, _PIPELINE)))
    for path, value in ((_TENSOR, 1), (_PIPELINE, 1), (_WARMUP, 0)):
        put_answer(neutral, path, value)
    warmup = str(get_answer(data, _WARMUP)).strip()
    settings = with_layout(validated(neutral), layout)
    if not warmup.isascii() or not warmup.isdigit():
        return settings
    training = settings.training.model_copy(update={"warmup_steps": int(warmup[:9])})
    return settings.model_copy(update={"training": training})


def _whole(value: Any) -> int:
    text = str(value).strip()
    return int(text) if text.isascii() and text.isdigit() and 0 < int(text) <= 64 else 1


def _processes(settings: Settings, usual: Settings) -> dict[str, Follower]:
    machine = find_machine(settings.resources.machine)
    if settings.stack is Stack.CPU or machine is None:
        return {_PROCESSES: Follower(usual.resources.processes_per_node, "Stack", "The stack's default.")}
    why = f"{machine.name} has {machine.cores} Neuron cores, one for each process."
    return {_PROCESSES: Follower(machine.cores, "Machine", why)}


def _layout(settings: Settings, usual: Settings) -> dict[str, Follower]:
    wanted = Layout(usual.training.tensor_parallel, usual.training.pipeline_parallel)
    model, machine = find_model(settings.model.model), find_machine(settings.resources.machine)
    if settings.stack is Stack.CPU or machine is None:
        return _pair(wanted, "Stack", "The cpu stack has a whole model in each process.")
    workers = settings.resources.nodes * settings.resources.processes_per_node
    if model is None:
        found = Layout(math.gcd(wanted.tensor, workers), 1)
        return _pair(found, "Processes per node", f"It divides the {workers} processes.")
    nearest = nearest_layout(with_layout(settings, wanted), model, machine) or wanted
    why = f"The nearest to {wanted} that divides and fits {model.name} on {settings.resources.nodes} x {machine.name}."
    return _pair(nearest, "model, machine and nodes", why)


def _pair(layout: Layout, source: str, why: str) -> dict[str, Follower]:
    return {_TENSOR: Follower(layout.tensor, source, why), _PIPELINE: Follower(layout.pipeline, source, why)}


def _warmup(settings: Settings, usual: Settings) -> dict[str, Follower]:
    most, wanted = settings.training.max_steps, usual.training.warmup_steps
    if not most or 2 * wanted <= most:
        return {_WARMUP: Follower(wanted, "Stack", "The stack's default.")}
    why = f"A tenth of the {most} steps: {wanted} would be too many of them."
    return {_WARMUP: Follower(most // 10, "Steps at most", why)}


# In this order: each sees what followed before it.
_RULES: tuple[tuple[tuple[str, ...], _Rule], ...] = (
    ((_PROCESSES,), _processes),
    ((_TENSOR, _PIPELINE), _layout),
    ((_WARMUP,), _warmup),
)
_FOLLOWING = frozenset(path for paths, _ in _RULES for path in paths)
