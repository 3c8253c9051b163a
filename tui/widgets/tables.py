"""Tables that are updated in place, so that the cursor stays where it is; the one of stages."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.text import Text
from textual.binding import Binding
from textual.coordinate import Coordinate
from textual.widgets import DataTable
from textual.widgets.data_table import ColumnKey, RowKey

from llama_tui.backend.monitor import MetricPoint
from llama_tui.backend.plain import printable
from llama_tui.backend.remaining import Expectations, remaining
from llama_tui.backend.report_text import duration, elapsed
from llama_tui.backend.stages import STAGES, Stage
from llama_tui.backend.states import StageState, StageView
from llama_tui.tui.clocks import changes_in, left_text, running_text
from llama_tui.tui.words import state_text

Cell = str | Text

# In a table of rows, Home and End are its first and its last row; Textual's own are for columns.
UP_AND_DOWN = [
    Binding("home", "scroll_top", "First row", show=False),
    Binding("end", "scroll_bottom", "Last row", show=False),
]


def _as_it_is(cell: Cell) -> Cell:
    """The table takes words in brackets for styles: a job's name may have some."""
    return Text(cell) if isinstance(cell, str) and "[" in cell else cell


class SteadyTable(DataTable[Cell]):
    """A table of rows with keys; `show` replaces them without moving the cursor."""

    BINDINGS = [*UP_AND_DOWN]
    titles: tuple[str, ...] = ()

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=False)
        self._shown: dict[str, tuple[Cell, ...]] = {}

    def on_mount(self) -> None:
        """The columns are there from the start."""
        self._add_columns()

    def _add_columns(self) -> None:
        for title in self.titles:
            self.add_column(title, key=title)

    def show(self, rows: Iterable[tuple[str, tuple[Cell, ...]]]) -> None:
        """Shows exactly these rows: (key, cells). Only what differs is touched."""
        wanted = {key: tuple(map(_as_it_is, cells)) for key, cells in rows}
        before = self._shown
        self._shown = wanted
        if list(before) != list(wanted):
            self._replace(wanted)
            return
        counted = self._update_count
        for key, cells in wanted.items():
            if cells == before[key]:
                continue
            for title, cell, old in zip(self.titles, cells, before[key], strict=True):
                if cell != old:
                    self._change(key, title, cell, old)
        if self._update_count != counted:
            self._forget_drawn()

    def _forget_drawn(self) -> None:
        """What was drawn before a change is not asked for again; the table would keep ten thousand such cells."""
        for cache in (
            self._cell_render_cache,
            self._row_render_cache,
            self._row_renderable_cache,
            self._line_cache,
        ):
            cache.clear()

    def _change(self, key: str, title: str, cell: Cell, old: Cell) -> None:
        """A cell of the same width is repainted alone: a clock must not repaint the table."""
        if len(cell) != len(old):
            self.update_cell(key, title, cell, update_width=True)
            return
        row, column = self.get_row_index(key), self.get_column_index(title)
        self._data[RowKey(key)][ColumnKey(title)] = cell
        self._update_count += 1
        self.refresh_coordinate(Coordinate(row, column))

    def _update_dimensions(self, new_rows: Iterable[RowKey]) -> None:
        """Lines that were painted before the columns got their widths are painted again, not taken from the cache."""
        super()._update_dimensions(new_rows)
        self._update_count += 1
        self.refresh()

    def _replace(self, wanted: dict[str, tuple[Cell, ...]]) -> None:
        """Other rows, or in another order; the cursor stays at its row, else at its place, and what is in sight there."""
        at, chosen = self.cursor_row, self.chosen
        scroll = self.scroll_offset.y
        self._begin()
        for key, cells in wanted.items():
            self.add_row(*cells, key=key)
        self._put_cursor(list(wanted), chosen, at)
        self.scroll_to(y=scroll, animate=False)

    def _begin(self, columns: bool = False) -> None:
        """Forgets the rows; the next ones are shown wherever somebody has scrolled to."""
        self.set_reactive(DataTable.cursor_coordinate, Coordinate(0, 0))
        self.clear(columns=columns)

    def _put_cursor(self, keys: list[str], chosen: str | None, at: int) -> None:
        """To the chosen row, else to the place `at` where it was; the table's own way scrolls to it, always."""
        row = keys.index(chosen) if chosen in keys else min(at, max(0, len(keys) - 1))
        self.set_reactive(DataTable.cursor_coordinate, Coordinate(row, 0))
        self._highlight_cursor()

    @property
    def chosen(self) -> str | None:
        """The key of the row under the cursor."""
        rows = self.ordered_rows
        return rows[self.cursor_row].key.value if 0 <= self.cursor_row < len(rows) else None


class StageTable(SteadyTable):
    """The seven stages of a run.

    Attributes:
        changes_at: when one of its clocks says something else, on the host's clock.
    """

    titles = ("stage", "state", "time", "left", "try", "why", "job", "node")
    changes_at = math.inf

    def show_stages(
        self,
        views: tuple[StageView, ...],
        now: float,
        expected: Expectations,
        points: list[MetricPoint],
    ) -> None:
        """Shows them; `now` is the host's clock."""
        lefts = {view.stage: remaining(view, now, expected, points) for view in views}
        self.show((view.stage.value, _cells(view, now, lefts[view.stage])) for view in views)
        running = [view for view in views if view.state is StageState.RUNNING]
        self.changes_at = min(
            (now + changes_in(elapsed(view, now) or 0.0, lefts[view.stage]) for view in running),
            default=math.inf,
        )

    @property
    def stage(self) -> Stage:
        """The one under the cursor."""
        return Stage(self.chosen) if self.chosen else STAGES[0]


def _cells(view: StageView, now: float, left: float | None) -> tuple[Cell, ...]:
    seconds = elapsed(view, now)
    return (
        f"{view.stage.number} {view.stage}",
        state_text(view.state),
        duration(seconds) if view.ended is not None else running_text(seconds),
        "" if view.state is StageState.DONE else left_text(left),
        str(view.attempt or ""),
        printable(view.reason)[:60],
        view.job_id,
        view.node,
    )
