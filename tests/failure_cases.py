"""The failure examples that the diagnosis is judged by.

`cases.json` and the logs beside it are the 95 examples of the collection that the project was given (host names of package
indexes replaced by neutral ones); `wordings.txt` holds further messages of the same kinds, written from what the programs print, each a block that begins with
`== kind stage [exit=1] [signal=] [state=FAILED] [reason=] [node=]`, where `-` means not known. `held-out.json` and its logs
are of cases that were written from public threads and documentation without sight of the catalogue: those that it told wrong
at first, all that succeeded or have no kind, and one for each kind that has few wordings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_tui.backend.diagnosis.symptoms import Symptoms

FOLDER = Path(__file__).parent / "fixtures" / "failures"


@dataclass(frozen=True)
class FailureCase:
    """What is known of a job, and the kind that it should be told as."""

    name: str
    kind: str
    symptoms: Symptoms


def given_cases() -> list[FailureCase]:
    """The collection's 95 examples."""
    return _listed("cases.json")


def held_out_cases() -> list[FailureCase]:
    """Cases that were written without sight of the catalogue."""
    return _listed("held-out.json")


def _listed(file: str) -> list[FailureCase]:
    return [_given(fields) for fields in json.loads((FOLDER / file).read_text(encoding="utf-8"))]


def _given(fields: dict[str, Any]) -> FailureCase:
    name, kind = fields.pop("id"), fields.pop("kind")
    log = (FOLDER / f"{name}.log").read_text(encoding="utf-8")
    return FailureCase(name, kind, Symptoms(log, **fields))


def wordings() -> list[FailureCase]:
    """Further messages, one or a few lines each."""
    blocks = ("\n" + (FOLDER / "wordings.txt").read_text(encoding="utf-8")).split("\n== ")[1:]
    return [_wording(number, block) for number, block in enumerate(blocks, 1)]


def _wording(number: int, block: str) -> FailureCase:
    head, _, log = block.partition("\n")
    kind, stage, *rest = head.split()
    told = {"exit": "1", "signal": "-", "node": "-"}
    told |= (
        {"state": "-", "reason": "-"}
        if stage in {"submit", "ssh"}
        else {"state": "FAILED", "reason": "NonZeroExitCode"}
    )
    told |= dict(one.split("=", 1) for one in rest)
    known = {name: None if text == "-" else text for name, text in told.items()}
    exit_code, signal = (
        None if known[name] is None else int(known[name] or 0) for name in ("exit", "signal")
    )
    return FailureCase(
        f"{number:03d}-{kind}",
        kind,
        Symptoms(log, stage, exit_code, signal, known["state"], known["reason"], known["node"]),
    )
