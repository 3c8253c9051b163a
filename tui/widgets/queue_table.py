"""The table of jobs: its columns and its order are a person's choice, and kept."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.cells import cell_len
from rich.text import Text
from textual import on
from textual.binding import Binding
from textual.widgets import DataTable
from textual.widgets.data_table import ColumnKey

from llama_tui.backend import places
from llama_tui.backend.schedulers.base import Job
from llama_tui.tui.clocks import changes_in
from llama_tui.tui.widgets.queue_columns import (
    COLUMNS,
    Sorting,
    chosen_columns,
    chosen_sorting,
    columns_text,
    cut_widths,
    ran,
    sorting_text,
)
from llama_tui.tui.widgets.tables import SteadyTable
from llama_tui.tui.words import cut_text

MOST_JOBS = 1000
_COLUMNS_KEPT, _SORTING_KEPT = "queue.columns", "queue.sorting"


class QueueTable(SteadyTable):
    """Jobs as the scheduler shows them; a click on a title sorts by it, a second one the other way round.

    Attributes:
        changes_at: when one of its clocks says something else, on the host's clock.
    """

    BINDINGS = [
        Binding("d", "screen.queue('cancel')", "End job"),
        Binding("v", "screen.queue('columns')", "Columns of the queue", show=False),
        Binding("less_than_sign", "sort(-1)", "Sort by the column before", show=False),
        Binding("greater_than_sign", "sort(1)", "Sort by the column after", show=False),
        Binding("i", "reverse", "Sort the other way round", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.titles = chosen_columns(places.preference(_COLUMNS_KEPT))
        self.sorting = chosen_sorting(places.preference(_SORTING_KEPT))
        self._jobs: list[Job] = []
        self._now = 0.0
        self.changes_at = math.inf
        self._cut: dict[str, int] = {}

    def show_jobs(self, jobs: Iterable[Job], now: float) -> None:
        """Shows them; of more than can be read, the first thousand."""
        self._jobs, self._now = list(jobs), now
        clocks = (ran(job, now) for job in self._jobs if not job.state.final)
        self.changes_at = now + min((changes_in(one) for one in clocks if one is not None), default=math.inf)
        order = sorted(self._jobs, key=COLUMNS[self.sorting.column].order, reverse=self.sorting.reverse)
        cells = [COLUMNS[title].cell for title in self.titles]
        rows = {job.id: tuple(cell(job, now) for cell in cells) for job in order[:MOST_JOBS]}
        cut = self._cut_for(list(rows.values()))
        if cut != self._cut:
            self._cut = cut
            self._begin_anew(stay=True)
            return
        limits = [cut.get(title) for title in self.titles]
        self.show((key, tuple(map(cut_text, row, limits))) for key, row in rows.items())

    def on_resize(self) -> None:
        """All columns stay in sight, as far as that can be."""
        self.show_jobs(self._jobs, self._now)

    def _cut_for(self, rows: list[tuple[str, ...]]) -> dict[str, int]:
        if not self.size.width:
            return {}
        columns = {title: self.columns[ColumnKey(title)] for title in self.titles}
        widths = {
            title: max([len(column.label), *(cell_len(row[at]) for row in rows)])
            for at, (title, column) in enumerate(columns.items())
        }
        bar = self.scrollbar_size_vertical if len(rows) + self.header_height > self.size.height else 0
        return cut_widths(widths, self.size.width - bar - 2 * self.cell_padding * len(widths))

    # --- columns

    def choose_columns(self, names: tuple[str, ...]) -> None:
        """Shows these, in this order, now and at the next start."""
        self.titles = names
        places.save_preference(_COLUMNS_KEPT, columns_text(names))
        self._begin_anew()

    def _add_columns(self) -> None:
        arrow = " ▼" if self.sorting.reverse else " ▲"
        for title in self.titles:
            self.add_column(Text(title + arrow * (title == self.sorting.column)), key=title)

    def _begin_anew(self, stay: bool = False) -> None:
        """Makes the columns again; the cursor stays at its job, else at its place.

        Args:
            stay: what is in sight stays there, also where that is not the cursor.
        """
        at, chosen, (left, top) = self.cursor_row, self.chosen, self.scroll_offset
        self._begin(columns=True)
        self._shown = {}
        self._add_columns()
        self.show_jobs(self._jobs, self._now)
        self._put_cursor(list(self._shown), chosen, at)
        self.scroll_to(x=left, y=top, animate=False)
        if not stay:
            self.call_after_refresh(self._scroll_cursor_into_view)

    # --- order

    def sort_by(self, sorting: Sorting) -> None:
        """Sorts so, now and at the next start."""
        self.sorting = sorting
        places.save_preference(_SORTING_KEPT, sorting_text(sorting))
        self._begin_anew()

    @on(DataTable.HeaderSelected)
    def _title_clicked(self, event: DataTable.HeaderSelected) -> None:
        title = event.column_key.value or self.titles[0]
        self.sort_by(Sorting(title, title == self.sorting.column and not self.sorting.reverse))

    def action_sort(self, by: int) -> None:
        """By the column before or after, round the end."""
        at = self.titles.index(self.sorting.column) if self.sorting.column in self.titles else -max(by, 0)
        self.sort_by(Sorting(self.titles[(at + by) % len(self.titles)]))

    def action_reverse(self) -> None:
        """The last first."""
        self.sort_by(Sorting(self.sorting.column, not self.sorting.reverse))
