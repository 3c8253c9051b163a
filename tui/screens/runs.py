"""The runs found, newest first: opened, duplicated, put beside each other, deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widgets import DataTable, Input, Static

from llama_tui.backend import places
from llama_tui.backend.errors import UserError
from llama_tui.backend.figures import size
from llama_tui.backend.hosts.choose import HostBook
from llama_tui.backend.place import Place
from llama_tui.backend.plain import printable
from llama_tui.backend.run_removal import check_removable, remove_run, size_of_run
from llama_tui.backend.runs import RunInfo, list_runs
from llama_tui.backend.site import Site, connect
from llama_tui.backend.states import StageState
from llama_tui.tui.background import in_background
from llama_tui.tui.connections import hosts_of
from llama_tui.tui.promises import promises_of
from llama_tui.tui.screens.dialogs import Confirm
from llama_tui.tui.screens.late_answer import LateAnswer
from llama_tui.tui.widgets.action_label import ActionLabel
from llama_tui.tui.widgets.key_bar import KeyBar
from llama_tui.tui.widgets.tables import Cell, SteadyTable
from llama_tui.tui.words import state_text

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Found:
    """A run, and where it is."""

    place: Place
    info: RunInfo


class RunTable(SteadyTable):
    """Runs of all places. The first column shows which ones are marked."""

    BINDINGS = [Binding("enter", "select_cursor", "Open")]
    titles = ("·", "state", "run", "stage", "age", "model", "where")


class RunsScreen(Screen[None]):
    """Opens a run, or begins a new one.

    Args:
        place: look only here; None for all places used before.
    """

    # The search line comes first and is hidden: it must not get what is typed while the screen comes up.
    AUTO_FOCUS = "#runs"
    BINDINGS = [
        # First, so that there is room for it on the last line, when there is a search.
        Binding("escape", "end_search", "End the search"),
        Binding("n", "new", "New"),
        Binding("d", "duplicate", "Duplicate"),
        Binding("o", "compare", "Answers"),
        Binding("space", "mark", "Mark", key_display="␣"),
        Binding("v", "compare_runs", "Compare"),
        Binding("X,delete", "delete", "Delete"),
        # Before all others: what is typed at once after it is text already.
        Binding("slash", "search", "Find", show=False, priority=True),
        Binding("r", "reload", "Look again", show=False),
        Binding("q", "app.quit", "Quit", show=False),
    ]

    def __init__(self, place: Place | None = None) -> None:
        super().__init__()
        self._place = place
        self._found: dict[str, Found] = {}
        self._marked: list[str] = []
        self._searching = False

    def compose(self) -> ComposeResult:
        with Horizontal(id="runs-bar"):
            yield Static("Runs", id="title", markup=False)
            yield ActionLabel(
                "/ find", self.action_search, "/  part of a name, model, host or state", id="do-find"
            )
        yield Input(placeholder="part of a name, model, host or state; Esc ends", id="search", compact=True)
        yield RunTable(id="runs")
        yield Static("", id="detail", markup=False)
        yield Static("", id="note", markup=False)
        yield KeyBar()

    def on_mount(self) -> None:
        """Looks at all places."""
        self.query_one("#search").display = False
        self.action_reload()

    def action_reload(self) -> None:
        """Looks at all places again."""
        self._load()

    @work(exclusive=True, group="runs", exit_on_error=False)
    async def _load(self) -> None:
        """Looks at all places at once: one that does not answer holds up no other."""
        looked = [self._place] if self._place else await in_background(places.remembered)
        looked = looked or [Place("~/llama-tui")]
        self._found = {key: one for key, one in self._found.items() if one.place in looked}
        waiting = {place.label for place in looked}
        problems: list[str] = []

        async def look(place: Place) -> None:
            try:
                infos = await in_background(partial(_with_site, place, hosts_of(self.app), list_runs))
            except UserError as error:
                problems.append(printable(f"{place.label}: {error.message}"))
                infos = None
            waiting.discard(place.label)
            if infos is not None:
                self._take(place, infos)
            self._tell(waiting, problems)

        self._tell(waiting, problems)
        await asyncio.gather(*(look(place) for place in looked))

    def _take(self, place: Place, infos: list[RunInfo]) -> None:
        found = {key: one for key, one in self._found.items() if one.place != place}
        found |= {f"{place.label}/{info.run_id}": Found(place, info) for info in infos}
        self._found = dict(sorted(found.items(), key=lambda item: item[1].info.created, reverse=True))
        self._marked = [key for key in self._marked if key in self._found]
        self._show()

    def _tell(self, waiting: set[str], problems: list[str]) -> None:
        looking = [f"… looking at {label}" for label in sorted(waiting)]
        empty = [] if self._found or waiting else ["No runs yet. Press n for a new one."]
        self._note("\n".join([*empty, *problems, *looking]))

    def _note(self, words: str) -> None:
        note = self.query_one("#note", Static)
        note.update(words)
        note.display = bool(words)

    def _show(self) -> None:
        needle = self.query_one("#search", Input).value.strip().lower()
        rows: list[tuple[str, tuple[Cell, ...]]] = []
        now = time.time()
        for key, found in self._found.items():
            cells = _cells(found, key in self._marked, now)
            if needle in " ".join(str(cell) for cell in cells).lower():
                rows.append((key, cells))
        self.query_one(RunTable).show(rows)
        many = f"{len(rows)} of {len(self._found)}" if needle else str(len(rows))
        marked = f"  ·  {len(self._marked)} marked" if self._marked else ""
        self.query_one("#title", Static).update(f"Runs  ·  {many}{marked}")
        self._show_detail()

    @on(DataTable.RowHighlighted)
    def _show_detail(self) -> None:
        """What does not fit into the row under the cursor."""
        chosen = self._chosen()
        line = self.query_one("#detail", Static)
        line.display = chosen is not None
        if chosen is not None:
            line.update(printable(_detail(chosen)))

    def _chosen(self) -> Found | None:
        return self._found.get(self.query_one(RunTable).chosen or "")

    @on(DataTable.RowSelected)
    def action_open(self) -> None:
        """Shows the run under the cursor."""
        chosen = self._chosen()
        if chosen is None:
            return
        from llama_tui.tui.screens.monitor import MonitorScreen

        self.app.switch_screen(MonitorScreen(chosen.place, chosen.info.run_id))

    def action_new(self) -> None:
        """Opens the wizard, with an interrupted one's answers where there are some."""
        from llama_tui.tui.screens.wizard import WizardScreen

        self.app.switch_screen(WizardScreen.resumed())

    def action_duplicate(self) -> None:
        """Opens the wizard with the settings of the run under the cursor."""
        chosen = self._chosen()
        if chosen is None:
            return
        from llama_tui.tui.screens.wizard import WizardScreen

        self.app.switch_screen(WizardScreen(chosen.info.settings, of=chosen.info.run_id))

    def action_compare(self) -> None:
        """Shows the answers of the run under the cursor."""
        chosen = self._chosen()
        if chosen is None:
            return
        from llama_tui.tui.screens.comparison import ComparisonScreen

        self.app.push_screen(ComparisonScreen(chosen.place, chosen.info.run_id))

    # --- two runs

    def action_mark(self) -> None:
        """Marks the run under the cursor, or takes the mark away; of three the oldest mark goes."""
        key = self.query_one(RunTable).chosen
        if key is None or key not in self._found:
            return
        if key in self._marked:
            self._marked.remove(key)
        else:
            self._marked = [*self._marked, key][-2:]
        self._show()

    def action_compare_runs(self) -> None:
        """Puts the two marked runs beside each other; with one mark, it and the one under the cursor."""
        keys = list(self._marked)
        at = self.query_one(RunTable).chosen
        if len(keys) == 1 and at in self._found and at not in keys:
            keys.append(at)
        if len(keys) != 2:
            self.notify("Mark two runs with the space bar first.", severity="warning")
            return
        from llama_tui.tui.screens.run_comparison import RunComparisonScreen, Which

        left, right = (Which(self._found[key].place, self._found[key].info.run_id) for key in keys)
        self.app.push_screen(RunComparisonScreen(left, right))

    # --- the end of a run

    @work(exclusive=True, group="delete", exit_on_error=False)
    async def action_delete(self) -> None:
        """Removes the run under the cursor from the disk, after a question that says how much that frees."""
        chosen = self._chosen()
        if chosen is None:
            return
        run_id, late = chosen.info.run_id, LateAnswer(self)
        # Not as a toast: it would lie over the question's buttons.
        self._note(f"… counting what {run_id} takes on the disk")
        try:
            taken = await in_background(self._asking(chosen, lambda site: _removable_size(site, run_id)))
            self._note("")
            if not late.welcome:
                # The next letter of a text must not answer the question.
                late.tell(f"{run_id} is not deleted, since you went on to something else: X asks again.")
                return
            if not await self.app.push_screen_wait(
                Confirm("Delete this run?", _question(chosen, taken), "Delete")
            ):
                return
            self._note(f"… deleting {run_id}")
            late = LateAnswer(self)
            remove = self._asking(chosen, lambda site: remove_run(site, run_id))
            await promises_of(self.app).keep(f"deletion of {run_id}", remove)
        except UserError as error:
            self._note("")
            late.show_error(error)
            return
        self.notify(f"{run_id} is deleted.", markup=False)
        self.action_reload()

    def _asking(self, found: Found, ask: Callable[[Site], Answer]) -> Callable[[], Answer]:
        return partial(_with_site, found.place, hosts_of(self.app), ask)

    # --- search

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A search that is not there cannot be ended, and a slash in the search line is text."""
        if action == "end_search":
            return self._searching
        if action == "search":
            return not isinstance(self.focused, Input)
        return super().check_action(action, parameters)

    def action_search(self) -> None:
        """Shows the search line."""
        search = self.query_one("#search", Input)
        search.display = self._searching = True
        # Now, and not after the keys that wait already.
        self.set_focus(search)
        self.refresh_bindings()

    @on(Input.Changed, "#search")
    def _search_changed(self) -> None:
        self._show()

    @on(Input.Submitted, "#search")
    def _search_done(self) -> None:
        self.query_one(RunTable).focus()

    def action_end_search(self) -> None:
        """Shows all runs again."""
        search = self.query_one("#search", Input)
        search.value = ""
        search.display = self._searching = False
        self.set_focus(self.query_one(RunTable))
        self.refresh_bindings()


def _with_site(place: Place, hosts: HostBook, ask: Callable[[Site], Answer]) -> Answer:
    site = connect(place, hosts)
    try:
        return ask(site)
    finally:
        site.close()


def _removable_size(site: Site, run_id: str) -> int | None:
    check_removable(site, run_id)
    return size_of_run(site, run_id)


def _question(found: Found, taken: int | None) -> str:
    freed = "How much disk that frees could not be counted in time."
    if taken is not None:
        freed = f"That frees {size(taken)} on the disk."
    return printable(
        f"{found.info.run_id} in {found.place.label} is removed with its adapter, merged model, answers and logs. "
        f"{freed}\n\nIt cannot be brought back. Environments, base models and data sets are shared and stay."
    )


def _stage(found: Found) -> str:
    snapshot = found.info.snapshot
    done = sum(view.state is StageState.DONE for view in snapshot.views)
    return f"{done}/7" if done == len(snapshot.views) else f"{done}/7 {snapshot.current.stage}"


def _detail(found: Found) -> str:
    settings, created = found.info.settings, found.info.created
    submitted = time.strftime("%Y-%m-%d %H:%M", time.localtime(created)) if created else "never submitted"
    problem = found.info.snapshot.problem
    return (
        f"{settings.model.model} on {settings.model.dataset}, {settings.stack} stack  ·  {submitted}\n"
        f"{found.place.label}" + (f"  ·  ⚠ the scheduler does not answer: {problem}" if problem else "")
    )


def age(seconds: float) -> str:
    """How long ago, in one number that is easy to compare."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return "now"


def _cells(found: Found, marked: bool, now: float) -> tuple[Cell, ...]:
    created = found.info.created
    return (
        Text("●" if marked else " ", style="bold"),
        state_text(found.info.snapshot.state),
        found.info.run_id,
        _stage(found),
        age(now - created) if created else "never",
        printable(found.info.settings.model.model),
        printable(found.place.label),
    )
