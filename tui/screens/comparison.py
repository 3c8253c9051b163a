"""Base and fine-tuned, side by side, prompt by prompt; more prompts are asked from here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cached_property, partial

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.screen import Screen
from textual.widgets import Static
from textual.worker import Worker

from llama_tui.backend.comparison import Comparison, read_comparison
from llama_tui.backend.comparison_pages import to_html, to_markdown
from llama_tui.backend.errors import RunError, SchedulerError, UserError
from llama_tui.backend.kept_run import KeptRun
from llama_tui.backend.more_prompts import Asked, Questions, ask_more, asked_later
from llama_tui.backend.place import Place
from llama_tui.backend.plain import printable
from llama_tui.backend.runs import Run
from llama_tui.backend.states import StageState
from llama_tui.tui.background import in_background
from llama_tui.tui.connections import hosts_of
from llama_tui.tui.promises import promises_of
from llama_tui.tui.screens.ask_prompts import AskPrompts
from llama_tui.tui.screens.late_answer import LateAnswer
from llama_tui.tui.screens.saving import save_text
from llama_tui.tui.widgets.answers import MODES, AnswersView, asked_words
from llama_tui.tui.widgets.key_bar import KeyBar

# Seconds between looks, only while answers are awaited.
LOOK_EVERY = 5.0
_TITLE = "Base and fine-tuned"
Page = Callable[[Sequence[Comparison], str], str]


class ComparisonScreen(Screen[None]):
    """Shows comparison.json of a run, and the answers to prompts asked later."""

    BINDINGS = [
        Binding("a", "ask", "Ask more", tooltip="Ask both models more"),
        Binding("n", "go(1)", "Next", tooltip="The next prompt"),
        Binding("p", "go(-1)", "Prev", tooltip="The prompt before"),
        Binding("g", "mode", "Mode", tooltip="Greedy answers, sampled ones, or both"),
        Binding("m", "save('md')", "Markdown", tooltip="Save all of it as Markdown"),
        Binding("h", "save('html')", "HTML", tooltip="Save all of it as one HTML file"),
        Binding("r", "reload", "Look again", show=False),
        Binding("escape,o", "app.pop_screen", "Back"),
        Binding("q", "app.quit", "Quit", show=False),
    ]

    def __init__(self, place: Place, run_id: str) -> None:
        super().__init__()
        self._place = place
        self._run_id = run_id
        self._comparison: Comparison | None = None
        self._later: list[Asked] = []
        self._awaited: set[int] = set()
        self._mode = MODES[0]
        self._settings: Questions | None = None
        self._look: Worker[None] | None = None

    @cached_property
    def _run(self) -> KeptRun:
        return KeptRun(self._place, self._run_id, hosts_of(self.app))

    def compose(self) -> ComposeResult:
        yield Static(printable(f"{_TITLE}  ·  {self._run_id}"), id="title", markup=False)
        yield Static("… reading", id="held-out", markup=False)
        yield AnswersView(id="answers")
        yield Static("", id="awaited", markup=False)
        yield KeyBar()

    def on_mount(self) -> None:
        """Reads the files, and looks again while answers are awaited."""
        self.query_one("#awaited").display = False
        self.query_one(AnswersView).focus()
        self.action_reload()
        self.set_interval(LOOK_EVERY, self._look_again)

    def on_unmount(self) -> None:
        """Jobs go on; only our looking ends."""
        threading.Thread(target=self._run.close, daemon=True).start()

    def action_reload(self) -> None:
        """Reads it again."""
        self._look = self._load()

    def _look_again(self) -> None:
        # A slow scheduler is waited for: a look that is begun anew again and again never comes to its end.
        if self._awaited and (self._look is None or self._look.is_finished):
            self.action_reload()

    @work(exclusive=True, group="comparison", exit_on_error=False)
    async def _load(self) -> None:
        try:
            found = await in_background(lambda: self._run.do(_read))
        except UserError as error:
            self._tell_header(f"{error.message}. {error.hint}")
            return
        self._comparison, later, problem = found
        # What the scheduler gives no answer about is as it was, and awaited further.
        self._later = self._later if later is None else later
        header = "" if self._comparison is None else _header(self._comparison)
        self._tell_header("\n⚠ ".join(filter(None, [header, problem])))
        await self._show()
        self._awaited |= {one.number for one in self._later if one.state.active}
        ended = [one for one in self._later if one.number in self._awaited and not one.state.active]
        self._awaited -= {one.number for one in ended}
        self._tell_ends(ended)

    def _tell_ends(self, ended: Sequence[Asked]) -> None:
        """What was awaited is there, or will not come: it is said, and shown."""
        for one in ended:
            if one.comparison is not None:
                self.notify(printable(f"Answered: {asked_words(one)}."), markup=False)
            else:
                words = printable(f"Not answered ({one.reason or one.state}): {asked_words(one)}.")
                self.notify(words, severity="error", timeout=15, markup=False)
        if ended:
            self.query_one(AnswersView).lead_to_asked(ended[-1].number)

    async def _show(self) -> None:
        await self.query_one(AnswersView).show(self._comparison, self._later, self._mode)
        awaited = [asked for asked in self._later if asked.state.active]
        line = self.query_one("#awaited", Static)
        line.display = bool(awaited)
        line.update("\n".join(printable(_awaited_words(one)) for one in awaited))

    def _tell_header(self, words: str) -> None:
        self.query_one("#held-out", Static).update(printable(words.strip()))

    def action_go(self, by: int) -> None:
        """Scrolls to the next or the previous prompt."""
        self.query_one(AnswersView).go(by)

    async def action_mode(self) -> None:
        """Greedy answers, sampled ones, or both."""
        self._mode = MODES[(MODES.index(self._mode) + 1) % len(MODES)]
        self.notify(f"Answers shown: {self._mode}.", timeout=2)
        only = "" if self._mode == MODES[0] else f"  ·  {self._mode} answers only"
        self.query_one("#title", Static).update(printable(f"{_TITLE}  ·  {self._run_id}{only}"))
        await self._show()

    @work(exclusive=True, group="ask", exit_on_error=False)
    async def action_ask(self) -> None:
        """Asks for prompts and has them answered by a new short job."""
        late = LateAnswer(self)
        try:
            if self._settings is None:
                self._settings = await in_background(lambda: self._run.do(_first_questions))
            if not late.welcome:
                late.tell("More can be asked now: a begins.")
                return
            asked = await self.app.push_screen_wait(AskPrompts(self._settings))
            if asked is None:
                return
            self._settings, late = asked, LateAnswer(self)
            self.query_one(AnswersView).wait_here()
            self.notify("The scheduler is being asked …", timeout=2)
            ask = partial(self._run.do, lambda run: ask_more(run, asked))
            self._awaited.add(await promises_of(self.app).keep(f"more prompts for {self._run_id}", ask))
        except UserError as error:
            late.show_error(error)
            return
        self.notify("Asked. The answers are shown here when they are there.")
        self.action_reload()

    @work(exclusive=True, group="save", exit_on_error=False)
    async def action_save(self, kind: str) -> None:
        """Writes a page of Markdown, or one HTML file, on this computer."""
        pages = [self._comparison, *(asked.comparison for asked in self._later)]
        there = [page for page in pages if page is not None]
        if not there:
            self.notify("There are no answers to save yet.", severity="warning")
            return
        make: Page = to_html if kind == "html" else to_markdown
        name = f"{self._run_id}.{kind}"
        path = await save_text(self.app, "Save the comparison as", name, lambda: make(there, self._run_id))
        if path is not None:
            self.notify(f"Saved {path}.", markup=False)


def _read(run: Run) -> tuple[Comparison | None, list[Asked] | None, str]:
    """The run's comparison, what was asked later (None where that is not known), and why something is not there."""
    problem = ""
    comparison = None
    try:
        comparison = read_comparison(run)
    except RunError as error:
        problem = f"{error.message}. {error.hint}"
    try:
        return comparison, asked_later(run), problem
    except SchedulerError as error:
        return comparison, None, f"{problem} {error.message}".strip()


def _awaited_words(asked: Asked) -> str:
    """What a question waits for, in one line."""
    words = {
        StageState.RUNNING: "being answered",
        StageState.PENDING: "its job waits",
        StageState.SUBMITTING: "being handed to the scheduler",
    }
    facts = [f"job {asked.job_id}" if asked.job_id else "", asked.reason]
    known = ", ".join(filter(None, facts))
    return f"… {words.get(asked.state, 'not answered yet')}{f' ({known})' if known else ''}: {asked_words(asked)}"


def _first_questions(run: Run) -> Questions:
    settings = run.settings
    return Questions(**settings.inference.model_dump(), seed=settings.training.seed)


def _header(comparison: Comparison) -> str:
    held = comparison.held_out
    lines = ["No records were held out: no loss was measured."]
    if held is not None:
        lines = [
            f"held-out loss: base {held.base_loss:.3f}, fine-tuned {held.fine_tuned_loss:.3f}   perplexity: "
            f"{held.base_perplexity:.1f}, {held.fine_tuned_perplexity:.1f}",
            f"{held.words} ({held.records} records)",
        ]
    return "\n".join([*lines, *(f"⚠ {words}" for words in comparison.warnings)])
