"""A number with its unit, and what it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from llama_tui.backend.report_text import duration


class Unit(StrEnum):
    """What a figure counts."""

    STEPS = "steps"
    SEQUENCES = "sequences"
    TOKENS = "tokens"
    SECONDS = "seconds"
    BYTES = "bytes"
    DOLLARS = "US dollars"


@dataclass(frozen=True)
class Figure:
    """One number.

    Attributes:
        value: in `unit`; None where it is not known.
        basis: what it rests on, in words; where it is not known, why.
        measured: it rests on an earlier run, not on a formula.
    """

    value: float | None
    unit: Unit
    basis: str
    measured: bool = False

    @property
    def words(self) -> str:
        """The number for people: 1,251 steps, 3.2 GB, 0:27:04, $9.70; a question mark where it is not known."""
        if self.value is None:
            return "?"
        if self.unit is Unit.SECONDS:
            return duration(self.value)
        if self.unit is Unit.BYTES:
            return size(self.value)
        if self.unit is Unit.DOLLARS:
            return f"${self.value:,.2f}"
        return f"{self.value:,.0f} {self.unit}"


def size(count: float) -> str:
    """Bytes in words, in powers of a thousand: 16.1 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def total(figures: list[Figure], unit: Unit, basis: str) -> Figure:
    """The sum; not known as soon as one of them is not."""
    values = [figure.value for figure in figures]
    known = [value for value in values if value is not None]
    measured = bool(figures) and all(figure.measured for figure in figures)
    return Figure(sum(known) if len(known) == len(values) else None, unit, basis, measured)
