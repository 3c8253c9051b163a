"""Two runs side by side: what came of them, and the settings that differ."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.screen import Screen
from textual.widgets import DataTable, Static

from llama_tui.backend.errors import UserError
from llama_tui.backend.hosts.choose import HostBook
from llama_tui.backend.place import Place
from llama_tui.backend.plain import printable
from llama_tui.backend.run_comparison import Row, RunFacts, facts_of, result_rows, setting_rows, verdict
from llama_tui.backend.runs import open_run
from llama_tui.backend.site import connect
from llama_tui.tui.background import in_background
from llama_tui.tui.connections import hosts_of
from llama_tui.tui.widgets.key_bar import KeyBar
from llama_tui.tui.widgets.tables import UP_AND_DOWN

# Characters of a value that are shown at most, and at least however narrow it is; all of it is below the table.
MOST, LEAST = 60, 16
# What the table takes besides: the mark, the space around each of four columns, the scroll bar.
BESIDES = 1 + 4 * 2 + 2


@dataclass(frozen=True)
class Which:
    """A run and where it is."""

    place: Place
    run_id: str


class TwoTable(DataTable[str | Text]):
    """What differs, a line each."""

    BINDINGS = [*UP_AND_DOWN]


class RunComparisonScreen(Screen[None]):
    """Shows two runs beside each other."""

    BINDINGS = [
        Binding("s", "all_settings", "All settings"),
        Binding("x", "swap", "Swap sides"),
        Binding("r", "reload", "Look again"),
        Binding("escape,v", "app.pop_screen", "Back"),
        Binding("q", "app.quit", "Quit", show=False),
    ]

    def __init__(self, left: Which, right: Which) -> None:
        super().__init__()
        self._sides = (left, right)
        self._facts: tuple[RunFacts, RunFacts] | None = None
        self._all = False
        self._rows: list[Row] = []
        self._shown = MOST

    def compose(self) -> ComposeResult:
        yield Static(self._title, id="title", markup=False)
        yield Static("… reading", id="two-verdict", markup=False)
        yield TwoTable(id="two", cursor_type="row")
        yield Static("", id="detail", markup=False)
        yield KeyBar()

    @property
    def _title(self) -> str:
        return printable("  ·  ".join(["Two runs", *(side.run_id for side in self._sides)]))

    def on_mount(self) -> None:
        """Reads both."""
        self.query_one("#two").focus()
        self.action_reload()

    def on_resize(self) -> None:
        """Both sides stay in sight."""
        self._show()

    def action_reload(self) -> None:
        """Reads both again."""
        self._load()

    @work(exclusive=True, group="two", exit_on_error=False)
    async def _load(self) -> None:
        hosts = hosts_of(self.app)
        try:
            found = {side: await in_background(partial(_read, side, hosts)) for side in self._sides}
        except UserError as error:
            words = printable(f"{error.message}. {error.hint}".strip())
            self.query_one("#two-verdict", Static).update(words)
            return
        # They may have changed sides while they were read.
        left, right = self._sides
        self._facts = found[left], found[right]
        self._show()

    def action_all_settings(self) -> None:
        """Shows the settings that are the same as well, or hides them again."""
        self._all = not self._all
        self._show()

    def action_swap(self) -> None:
        """The left one to the right."""
        self._sides = self._sides[::-1]
        if self._facts is not None:
            self._facts = self._facts[::-1]
        self.query_one("#title", Static).update(self._title)
        self._show()

    def _show(self) -> None:
        if self._facts is None:
            return
        left, right = self._facts
        settings = setting_rows(left.settings, right.settings)
        differing = [row for row in settings if row.differs]
        words = [verdict(left, right), f"{len(differing)} of {len(settings)} settings differ (≠)."]
        self.query_one("#two-verdict", Static).update("\n".join(filter(None, words)))
        self._rows = [*result_rows(left, right), *(settings if self._all else differing)]
        table = self.query_one("#two", DataTable)
        at = table.cursor_row
        room = self.app.size.width - BESIDES
        what = min(max(len(row.what) for row in self._rows), room // 2)
        self._shown = min(MOST, max(LEAST, (room - what) // 2))
        table.clear(columns=True)
        table.add_columns(" ", "", *(_end(one.run_id, self._shown) for one in (left, right)))
        for row in self._rows:
            style = "bold" if row.differs else ""
            sides = (_cut(row.left, self._shown), _cut(row.right, self._shown))
            cells = ("≠" if row.differs else "=", _cut(row.what, what), *sides)
            table.add_row(*(Text(printable(cell), style=style) for cell in cells))
        table.move_cursor(row=min(at, len(self._rows) - 1))

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Long values are shown in full for the row under the cursor."""
        row = self._rows[event.cursor_row] if event.cursor_row < len(self._rows) else None
        detail = self.query_one("#detail", Static)
        cut = row is not None and max(len(row.left), len(row.right)) > self._shown
        detail.display = cut
        if row is not None and cut:
            detail.update(printable(f"{row.left}\n{row.right}"))


def _cut(text: str, room: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= room else line[: room - 1] + "…"


def _end(run_id: str, room: int) -> str:
    """Runs of one name differ at the end of their ids."""
    name = printable(run_id)
    return name if len(name) <= room else "…" + name[1 - room :]


def _read(which: Which, hosts: HostBook) -> RunFacts:
    site = connect(which.place, hosts)
    try:
        return facts_of(open_run(site, which.run_id))
    finally:
        site.close()
