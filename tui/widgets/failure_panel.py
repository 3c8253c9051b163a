"""What failed, why, and what to do about it: in words, and as buttons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.events import Click
from textual.widgets import Button, Static

from llama_tui.backend.plain import printable
from llama_tui.backend.report_text import MARKS
from llama_tui.backend.runs import Snapshot
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState, StageView

if TYPE_CHECKING:
    from llama_tui.backend.diagnosis.diagnose import Diagnosis

_BAD = frozenset({StageState.FAILED, StageState.CANCELLED, StageState.HELD})
# Each does what its key does: the button's id is the screen's action.
_BUTTONS = (
    ("rerun", "Rerun (r)"),
    ("other_settings", "Other settings (t)"),
    ("cancel", "Cancel the rest (c)"),
    ("report", "Report (k)"),
    ("compare", "Both models' answers (o)"),
    ("more", "More (a)"),
)
_DONE = "✓ All seven stages are done. o shows both models' answers side by side."
# Rows of a screen that are not for the words: eight of log, what is above and below it, the stages, the buttons.
_TAKEN = 22
_FEWEST = 2


class FailurePanel(Vertical):
    """Above the log, while there is something to decide. Where the log would have no room, in two lines at first."""

    def __init__(self) -> None:
        super().__init__()
        self._words = self._short = ""
        self._told: tuple[Stage, int, StageState] | None = None
        self._opened = False

    def compose(self) -> ComposeResult:
        yield Static("", id="failure", markup=False)
        with Horizontal(id="failure-buttons"):
            for action, words in _BUTTONS:
                button = Button(words, id=f"do-{action.replace('_', '-')}", name=action, compact=True)
                # Each has its key: a click leaves the cursor in the stages or the log, where it is needed.
                button.can_focus = False
                yield button

    def show(self, snapshot: Snapshot, diagnosis: Diagnosis | None) -> None:
        """Says how the run ended; hidden while it goes on."""
        view = snapshot.current
        bad, done = view.state in _BAD, snapshot.state is StageState.DONE
        self.set_class(bad or done, "told")
        self.set_class(bad, "bad")
        if not (bad or done):
            return
        waiting = any(one.state in {StageState.PENDING, StageState.BLOCKED} for one in snapshot.views)
        alive = {job.id for job in snapshot.jobs or () if not job.state.final}
        rest = waiting and any(one.job_id in alive for one in snapshot.views)
        shown = {"rerun": bad, "other_settings": bad, "report": bad, "cancel": bad and rest, "compare": done}
        for action, visible in shown.items():
            self.query_one(f"#do-{action.replace('_', '-')}").display = visible
        told = (view.stage, view.attempt, view.state)
        if told != self._told:
            # What is learnt later of the same failure leaves it as open as somebody wanted it.
            self._told, self._opened = told, False
        self._say(*(_why(view, diagnosis) if bad else (_DONE, _DONE)))

    def _say(self, words: str, short: str) -> None:
        if words != self._words:
            self._words, self._short = words, short
            self.fit()

    def fit(self) -> None:
        """All of it where there is room or somebody wants it, else two lines. To be called at each new size."""
        width = max(10, self.app.size.width - 2)
        room = max(_FEWEST, self.app.size.height - _TAKEN)
        long = len(Text(self._words).wrap(self.app.console, width)) > room
        more = self.query_one("#do-more", Button)
        more.display = long
        more.label = "Less (a)" if self._opened else "More (a)"
        self.set_class(long and not self._opened, "short")
        line = self.query_one("#failure", Static)
        words = self._short if self.has_class("short") else self._words
        if str(line.content) != words:
            line.update(words)

    def toggle(self) -> None:
        """All of it, or two lines again; nothing where all of it is there anyway."""
        if self.query_one("#do-more").display:
            self._opened = not self._opened
            self.fit()

    @on(Click, "#failure")
    def _words_clicked(self) -> None:
        self.toggle()


def _why(view: StageView, found: Diagnosis | None) -> tuple[str, str]:
    """What failed, why and what to do; and the same in two lines."""
    what = f"{MARKS[view.state]} {view.stage} {view.state}: {view.reason}."
    if found is None:
        words = printable(f"{what} r runs it again, with what follows.")
        return words, words
    sure = "" if found.sure or found.kind == "unknown" else "Probably: "
    return (
        printable(f"{what} {sure}{found.cause}\n→ {found.fix} (e: first error)"),
        printable(f"{what} {sure}{_first(found.cause)}\n→ {_first(found.fix)}"),
    )


def _first(text: str) -> str:
    return text.strip().split("\n", 1)[0]


def needs_explaining(view: StageView) -> bool:
    """Whether somebody will ask why."""
    return view.state in _BAD
