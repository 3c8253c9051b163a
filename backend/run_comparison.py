"""Two runs beside each other: which settings differ, and what came of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from llama_tui.backend.comparison import Comparison, parse_comparison
from llama_tui.backend.errors import RunError
from llama_tui.backend.monitor import latest_by_step, read_metrics
from llama_tui.backend.report_text import duration, elapsed
from llama_tui.backend.runs import Run, Snapshot
from llama_tui.backend.settings import Settings
from llama_tui.backend.stages import Stage

ABSENT = "—"


@dataclass(frozen=True)
class RunFacts:
    """What a run was asked for, and what came of it.

    Attributes:
        wall: seconds from the first stage's begin to the last one's end; None while nothing ended.
        worked: seconds in which a stage ran.
        training: seconds of the training stage.
        final_loss: the last training loss that was logged.
    """

    run_id: str
    settings: Settings
    snapshot: Snapshot
    wall: float | None
    worked: float
    training: float | None
    steps: int
    final_loss: float | None
    comparison: Comparison | None


@dataclass(frozen=True)
class Row:
    """One line of the table: what, and of each run."""

    what: str
    left: str
    right: str

    @property
    def differs(self) -> bool:
        """Whether the two runs have not the same here."""
        return self.left != self.right


def facts_of(run: Run) -> RunFacts:
    """Reads what there is; what is missing is left out.

    Raises:
        LinkLost: the connection ended.
    """
    snapshot = run.snapshot()
    files = run.site.link.collect([run.layout.file("comparison.json")])
    points = latest_by_step(read_metrics(run.site.link.read_text(run.layout.file("metrics.jsonl")) or ""))
    spans = [(view.started, view.ended) for view in snapshot.views if view.started and view.ended]
    return RunFacts(
        run_id=run.run_id,
        settings=run.settings,
        snapshot=snapshot,
        wall=max(end for _, end in spans) - min(start for start, _ in spans) if spans else None,
        worked=sum(end - start for start, end in spans),
        training=elapsed(snapshot.view(Stage.FINETUNE), run.site.now()),
        steps=points[-1].step if points else 0,
        final_loss=points[-1].loss if points else None,
        comparison=_readable(next(iter(files.values()), None)),
    )


def _readable(text: str | None) -> Comparison | None:
    if text is None:
        return None
    try:
        return parse_comparison(text, "comparison.json")
    except RunError:
        return None


def result_rows(left: RunFacts, right: RunFacts) -> list[Row]:
    """What came of the two, line by line."""
    ours, theirs = _results(left), _results(right)
    return [Row(what, words, theirs[what]) for what, words in ours.items()]


def _results(facts: RunFacts) -> dict[str, str]:
    held = facts.comparison.held_out if facts.comparison else None
    return {
        "state": str(facts.snapshot.state),
        "held-out loss, base": f"{held.base_loss:.3f}" if held else ABSENT,
        "held-out loss, fine-tuned": f"{held.fine_tuned_loss:.3f}" if held else ABSENT,
        "held-out perplexity, fine-tuned": f"{held.fine_tuned_perplexity:.1f}" if held else ABSENT,
        "final training loss": ABSENT if facts.final_loss is None else f"{facts.final_loss:.3f}",
        "optimizer steps": str(facts.steps) if facts.steps else ABSENT,
        "training time": duration(facts.training) or ABSENT,
        "stages' time, all": duration(facts.worked) if facts.worked else ABSENT,
        "wall time, queue included": duration(facts.wall) or ABSENT,
    }


def setting_rows(left: Settings, right: Settings) -> list[Row]:
    """All settings of both, in the order of the wizard, by the names that it shows."""
    return [
        Row(name, shown, other)
        for (name, shown), (_, other) in zip(_settings(left), _settings(right), strict=True)
    ]


def _settings(model: BaseModel, section: str = "") -> Iterator[tuple[str, str]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _settings(value, field.title or name)
        else:
            yield " / ".join(filter(None, (section, field.title or name))), _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or ABSENT
    return str(value) or ABSENT


def verdict(left: RunFacts, right: RunFacts) -> str:
    """Which of the two knows the held-out records better, in a sentence; empty where it cannot be said."""
    ours = left.comparison.held_out if left.comparison else None
    theirs = right.comparison.held_out if right.comparison else None
    if ours is None or theirs is None:
        return ""
    if _data(left) != _data(right):
        return "They were measured on other data: their held-out losses say nothing about each other."
    if abs(ours.fine_tuned_loss - theirs.fine_tuned_loss) < 0.0005:
        return "Both know the held-out answers equally well."
    better = left if ours.fine_tuned_loss < theirs.fine_tuned_loss else right
    gap = abs(ours.fine_tuned_loss - theirs.fine_tuned_loss)
    return f"{better.run_id} knows the held-out answers better: {gap:.3f} less loss."


def _data(facts: RunFacts) -> tuple[str, str, int, int, str]:
    data = facts.settings.model
    return data.dataset, data.dataset_split, data.held_out, facts.settings.training.seed, data.model
