"""The catalogue: what failures look like, what they mean and what to do. The data is in the *.toml files beside this.

A file holds one table for each kind, with `cause`, `fix` and `source`, and below it its signatures. A signature fires when all
that it states holds:

    lines            one of these regular expressions matches a line of the log (the decisive line)
    skip             a line that one of these matches is not decisive (a warning that the program tries again)
    also             each of these matches some line
    unless           none of these matches any line
    unless_after     none of these matches a line after the last decisive one (it went on all the same)
    at_least         so many lines match the decisive expression (1)
    stages           the stage is one of these
    exit_code, signal                          the code or signal is one of these
    slurm_state, slurm_reason, node_state      this regular expression is found in it (the state: matches all of it)
    after_success    it counts although the job ended with success
    follows          other ranks print it too when one rank ends: it does not count beside an exception that no rule knows
    sure             false: the cause is likely, not certain
    priority         among those that fire the highest wins: 90 and above facts and root causes that explain all
                     the rest, 70 to 89 a message of exactly this failure, 50 to 69 a general message or one that often
                     follows from another, below that a hint
    cause, fix, source    instead of the kind's own; `{name}` stands for a named group of the match

A kind may name a `field`: the setting to change where changing one helps, or `token`.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from pydantic import BaseModel, ConfigDict, Field, field_validator

from llama_tui.backend.diagnosis.patterns import LinePattern, nested_quantifier
from llama_tui.backend.stages import STAGES

HEALTHY = "healthy"
UNKNOWN = "unknown"
# Where a failure can be beside the seven stages: handing a job over or waiting in the queue, and reaching the host.
PLACES: tuple[str, ...] = (*STAGES, "submit", "ssh")


class Signature(BaseModel):
    """One way in which a kind of failure shows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lines: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    unless_after: tuple[str, ...] = ()
    at_least: int = Field(default=1, ge=1)
    stages: tuple[str, ...] = ()
    exit_code: tuple[int, ...] = ()
    signal: tuple[int, ...] = ()
    slurm_state: str = ""
    slurm_reason: str = ""
    node_state: str = ""
    after_success: bool = False
    follows: bool = False
    sure: bool = True
    priority: int = Field(ge=1, le=99)
    cause: str = ""
    fix: str = ""
    source: str = ""

    @field_validator("lines", "skip", "also", "unless", "unless_after")
    @classmethod
    def _safe(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        for source in sources:
            re.compile(source)
            if nested_quantifier(source):
                raise ValueError(f"a repetition within a repetition: {source}")
        return sources

    @field_validator("slurm_state", "slurm_reason", "node_state")
    @classmethod
    def _compiles(cls, source: str) -> str:
        re.compile(source)
        return source

    @field_validator("stages")
    @classmethod
    def _known(cls, stages: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := set(stages) - set(PLACES):
            raise ValueError(f"no such stage: {', '.join(sorted(unknown))}")
        return stages

    @property
    def conditions(self) -> int:
        """How many things beside the log it states; of two with the same priority, the one that states more wins."""
        stated = (
            self.exit_code,
            self.signal,
            self.slurm_state,
            self.slurm_reason,
            self.node_state,
            self.also,
        )
        return sum(1 for condition in stated if condition)


class Kind(BaseModel):
    """A kind of failure with all its signatures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cause: str = Field(min_length=1)
    fix: str = Field(min_length=1)
    source: str = Field(min_length=1)
    field: str = ""
    signature: tuple[Signature, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Rule:
    """A signature ready to be matched, with the words that go with it."""

    kind: str
    signature: Signature
    cause: str
    plain_cause: str
    fix: str
    source: str
    field: str
    lines: tuple[LinePattern, ...]
    skip: tuple[LinePattern, ...]
    also: tuple[LinePattern, ...]
    unless: tuple[LinePattern, ...]
    unless_after: tuple[LinePattern, ...]


@cache
def kinds() -> dict[str, Kind]:
    """All kinds by name.

    Raises:
        ValueError: a file of the catalogue is wrong; the program was built with a mistake.
    """
    found: dict[str, Kind] = {}
    for file in sorted(resources.files(__package__).iterdir(), key=lambda one: one.name):
        if not file.name.endswith(".toml"):
            continue
        for name, table in tomllib.loads(file.read_text(encoding="utf-8")).items():
            if name in found:
                raise ValueError(f"{file.name}: {name} is in another file too")
            found[name] = Kind.model_validate(table)
    return found


@cache
def rules() -> tuple[Rule, ...]:
    """Every signature of every kind, ready to be matched."""
    return tuple(
        _rule(name, kind, signature) for name, kind in kinds().items() for signature in kind.signature
    )


def _rule(name: str, kind: Kind, signature: Signature) -> Rule:
    return Rule(
        kind=name,
        signature=signature,
        cause=signature.cause or kind.cause,
        plain_cause=kind.cause,
        fix=signature.fix or kind.fix,
        source=signature.source or kind.source,
        field=kind.field,
        lines=_patterns(signature.lines),
        skip=_patterns(signature.skip),
        also=_patterns(signature.also),
        unless=_patterns(signature.unless),
        unless_after=_patterns(signature.unless_after),
    )


def _patterns(sources: tuple[str, ...]) -> tuple[LinePattern, ...]:
    return tuple(LinePattern(source) for source in sources)
