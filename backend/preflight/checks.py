"""All checks at once, each on a thread of its own and given up after some seconds: none can hold up the rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass

from llama_tui.backend.errors import LinkLost, UserError
from llama_tui.backend.plain import printable
from llama_tui.backend.preflight.check import Check, Outcome, Result, warned
from llama_tui.backend.preflight.data_checks import data_has_fields
from llama_tui.backend.preflight.device_checks import devices_are_there
from llama_tui.backend.preflight.facts import Facts
from llama_tui.backend.preflight.hub_checks import hub_answers, token_is_valid
from llama_tui.backend.preflight.model_checks import layout_divides, model_can_be_had, template_is_there
from llama_tui.backend.preflight.on_node import JOB_PATIENCE, look_from_node
from llama_tui.backend.preflight.place_checks import (
    clocks_agree,
    workspace_has_space,
    workspace_is_shared,
    workspace_is_writable,
)
from llama_tui.backend.preflight.slurm_checks import limits_allow, partition_has_nodes, slurm_answers
from llama_tui.backend.preflight.software_checks import index_answers, python_fits
from llama_tui.backend.settings import Settings
from llama_tui.backend.site import Site

PATIENCE = 8.0
WORDS_LIMIT = 600
Tell = Callable[[Check], None]
Named = list[tuple[str, Outcome]]

# In the order in which they are shown.
CHECKS: dict[str, Callable[[Facts], Outcome]] = {
    "Slurm": slurm_answers,
    "partition": partition_has_nodes,
    "limits": limits_allow,
    "devices": devices_are_there,
    "workspace": workspace_is_writable,
    "shared disk": workspace_is_shared,
    "space": workspace_has_space,
    "Python": python_fits,
    "package index": index_answers,
    "hub": hub_answers,
    "token": token_is_valid,
    "model": model_can_be_had,
    "chat template": template_is_there,
    "data set": data_has_fields,
    "parallel": layout_divides,
    "clock": clocks_agree,
}


@dataclass(frozen=True)
class _Running:
    name: str
    began: float
    patience: float
    found: Future[tuple[Named, float]]


def run_checks(
    site: Site, settings: Settings, tell: Tell | None = None, *, on_node: bool = False
) -> list[Check]:
    """Looks at everything that a run with these settings needs. Blocks for up to 8 s; 40 s with `on_node`.

    Args:
        tell: called with each check, in order, as soon as it and those before it are known.
        on_node: look from a compute node too, in a small job.

    Raises:
        LinkLost: the host went away meanwhile.
    """
    facts = Facts(site, settings)
    began = time.monotonic()
    running = [_start(name, _one(name, check), facts, PATIENCE) for name, check in CHECKS.items()]
    if on_node:
        running.append(_start("compute node", look_from_node, facts, JOB_PATIENCE + 2))
    checks: list[Check] = []
    for one in running:
        for check in _ended(one, began):
            checks.append(check)
            if tell is not None:
                tell(check)
    if not site.link.alive:
        raise LinkLost(
            "The connection ended while the host was looked at", "Nothing was changed there. Try again."
        )
    return checks


def all_well(checks: list[Check]) -> bool:
    """Whether nothing failed."""
    return all(check.result is not Result.FAIL for check in checks)


def _one(name: str, check: Callable[[Facts], Outcome]) -> Callable[[Facts], Named]:
    return lambda facts: [(name, check(facts))]


def _start(name: str, check: Callable[[Facts], Named], facts: Facts, patience: float) -> _Running:
    """On a daemon thread, not in a pool: a pool's threads are waited for when the program ends."""
    running = _Running(name, time.monotonic(), patience, Future())

    def work() -> None:
        try:
            found = _told(name, check, facts)
        except BaseException as error:
            running.found.set_exception(error)
            return
        running.found.set_result((found, time.monotonic() - running.began))

    threading.Thread(target=work, name=f"preflight: {name}", daemon=True).start()
    return running


def _told(name: str, check: Callable[[Facts], Named], facts: Facts) -> Named:
    """What a check found; an answer that is refused or not understood is a warning in words."""
    try:
        return check(facts)
    except UserError as error:
        return [(name, warned(f"could not be checked: {error.message}", error.hint))]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        words = f"could not be checked: an answer is not understood ({type(error).__name__}: {error})"
        return [(name, warned(words, "tell us, with this line"))]


def _ended(one: _Running, began: float) -> list[Check]:
    left = began + one.patience - time.monotonic()
    try:
        found, seconds = one.found.result(max(0.0, left))
    except FutureTimeout:
        words = f"gave no answer within {one.patience:.0f} s"
        return [
            Check(one.name, Result.WARN, words, "look again; the launch need not wait for it", one.patience)
        ]
    return [
        Check(name, outcome.result, _shown(outcome.words), _shown(outcome.fix), seconds)
        for name, outcome in found
    ]


def _shown(words: str) -> str:
    """One line that is safe on a terminal, whatever a host or a hub answered."""
    return " ".join(printable(words).split())[:WORDS_LIMIT]
