"""The compile cache of Trainium: what decides which graphs a training has, and which of them it found compiled.

Stage 2 leaves what it compiled for; stage 3 counts the graphs that it found (hits) and those it had to compile (misses),
and names what differs when there are misses.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import log, read_json

if TYPE_CHECKING:
    from options import Options

# What stage 2's own first process leaves beside the reports, for compile_model.py to put into its report.
ARGUMENTS_FILE = "compile_arguments.json"
# Options that change how long is trained and what is kept, but no graph.
_NOT_IN_A_GRAPH = {
    "run_dir",
    "dataset_dir",
    "epochs",
    "max_steps",
    "save_steps",
    "save_total_limit",
    "logging_steps",
    "rehearse",
    "report",
}
# libneuronxla's loggers by the names that stand in its lines; it tells of each graph that it finds in the cache.
_LOGGERS = ("NEURON_CC_WRAPPER", "NCC_WRAPPER", "NEURON_CACHE")
_FOUND = re.compile(r"Using a cached neff at .*?(MODULE_[\w+]+)")


def arguments_of(options: Options, processes: int) -> dict[str, Any]:
    """What decides which graphs a training has: options, number of processes, compiler and its flags."""
    values = {name: value for name, value in vars(options).items() if name not in _NOT_IN_A_GRAPH}
    values["lora_targets"] = ",".join(sorted(options.lora_targets))
    values["model_dir"] = str(options.model_dir)
    return {
        **values,
        "processes": processes,
        "NEURON_CC_FLAGS": os.environ.get("NEURON_CC_FLAGS", ""),
        "neuronx-cc": _compiler_version(),
    }


def _compiler_version() -> str:
    try:
        return importlib.metadata.version("neuronx-cc")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def differences(compiled_for: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What stage 2 compiled for against what stage 3 trains with, each difference in words."""
    return [
        f"{name} was {compiled_for.get(name, 'unknown')} in stage 2 and is {now.get(name, 'unknown')} here"
        for name in sorted({*compiled_for, *now})
        if compiled_for.get(name) != now.get(name)
    ]


class CacheWatch(logging.Handler):
    """Counts hits and misses from its creation on."""

    def __init__(self) -> None:
        super().__init__()
        self._before = compiled_graphs()
        self._found: set[str] = set()
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Notes a graph that was found in the cache."""
        found = _FOUND.search(record.getMessage())
        if found:
            self._found.add(found[1])

    def tell(self, run_dir: Path, now: dict[str, Any]) -> dict[str, Any]:
        """Say what was found, and why not where graphs were missing; gives it for stage 3's report."""
        missed = sorted(compiled_graphs() - self._before)
        facts: dict[str, Any] = {"cache_hits": len(self._found - set(missed)), "cache_misses": len(missed)}
        if not missed:
            found = f"{facts['cache_hits']} graphs found, " if self._found else ""
            log(f"compile cache: {found}none missing")
            return facts
        why = _why(run_dir / "reports" / "compile_model.json", now)
        log(
            f"warning: {len(missed)} graphs were not in the compile cache and were compiled during training "
            f"({facts['cache_hits']} were found): {'; '.join(why)}"
        )
        return {**facts, "missed": missed, "differences": why}


def _why(report: Path, now: dict[str, Any]) -> list[str]:
    if not report.exists():
        return ["compile_model left no report: it did not run, or not to its end"]
    compiled_for = read_json(report, "compile_model").get("arguments")
    if not compiled_for:
        return ["compile_model's report does not say what it compiled for"]
    return differences(compiled_for, now) or [
        "no argument, flag or version differs: the cache was emptied, or training has a graph that ten steps do not show"
    ]


def compiled_graphs() -> set[str]:
    """Names of the compiled graphs in the cache that NEURON_CC_FLAGS names (empty when it names none)."""
    words = shlex.split(os.environ.get("NEURON_CC_FLAGS", ""))
    named = next((word.partition("=")[2] for word in words if word.startswith("--cache_dir=")), "")
    return {path.parent.name for path in Path(named).rglob("model.neff")} if named else set()
