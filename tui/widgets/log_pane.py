"""The log of one attempt of one stage: the view, its line of words to click, the search, and what fetches the rest."""

from __future__ import annotations

import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static
from textual.worker import Worker

from llama_tui.backend.errors import UserError
from llama_tui.backend.live import LiveRun, LogInbox, LogRead
from llama_tui.backend.log_file import PIECE, LogFile, LogHits, LogPiece
from llama_tui.backend.log_search import find_lines, first_error
from llama_tui.backend.stages import Stage
from llama_tui.tui.background import in_background
from llama_tui.tui.pager import show_in_pager
from llama_tui.tui.screens.late_answer import LateAnswer
from llama_tui.tui.widgets.action_label import ActionLabel
from llama_tui.tui.widgets.log_view import LogView
from llama_tui.tui.words import cut_text

Answer = TypeVar("Answer")

# The view takes what came at most so often, in seconds; a slow terminal gets more time.
PAUSE = 0.12
SHARE = 4
NOTHING_YET = "Nothing of this log is here yet."
# Of what is searched for, so much is shown beside the count.
LONGEST_NEEDLE = 10
# Of what comes faster than anybody reads, fewer pictures do: keys come first.
BURST_BYTES, BURST_PAUSE = 64 * 1024, 0.3


@dataclass(frozen=True)
class Shown:
    """Which log is shown."""

    stage: Stage
    attempt: int


class LogPane(Vertical):
    """Shows logs of a run.

    Args:
        live: where they come from.
    """

    class Arrived(Message):
        """There is something in the inbox."""

    class AttemptChosen(Message):
        """The attempt before (-1) or after (1) is wanted."""

        def __init__(self, by: int) -> None:
            super().__init__()
            self.by = by

    def __init__(self, live: Callable[[], LiveRun], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._live = live
        self._inbox = LogInbox()
        self._pause = PAUSE
        self._path = ""
        self.shown: Shown | None = None
        self._following = threading.Lock()
        self._title = ""
        self._needle = ""
        self._search: Worker[None] | None = None
        self._hits: list[int] = []
        self._count = 0
        self._at = -1
        self._typing = False
        self._before_search: Widget | None = None
        self.commands: dict[str, Callable[[], object]] = {
            "older": lambda: self.post_message(self.AttemptChosen(-1)),
            "newer": lambda: self.post_message(self.AttemptChosen(1)),
            "search": self.search,
            "next": lambda: self.step(1),
            "previous": lambda: self.step(-1),
            "first_error": self.first_error,
            "follow": lambda: self.view.action_follow(),
            "wrap": lambda: self.view.action_wrap(),
            "copy": lambda: self.view.action_copy_line(),
            "pager": self.page,
        }

    def compose(self) -> ComposeResult:
        with Horizontal(classes="bar", id="log-bar"):
            yield ActionLabel("‹", self.commands["older"], "[  the attempt before", id="older")
            yield Static("", id="log-title", markup=False)
            yield ActionLabel("›", self.commands["newer"], "]  the attempt after", id="newer")
            yield Static("", id="log-found", markup=False)
            yield ActionLabel(
                "find", self.find, "/  search the whole file; once more begins the search", id="do-find"
            )
            yield ActionLabel("<", self.commands["previous"], "N  the match before", id="do-previous")
            yield ActionLabel(">", self.commands["next"], "n  the next match", id="do-next")
            yield ActionLabel("error", self.commands["first_error"], "e  the first error", id="do-error")
            yield ActionLabel("wrap", self.commands["wrap"], "w  wrap long lines", id="do-wrap")
            yield ActionLabel(
                "copy", self.commands["copy"], "y  copy the selection or the line", id="do-copy"
            )
            yield ActionLabel("pager", self.commands["pager"], "p  open in $PAGER", id="do-pager")
            yield ActionLabel("follow", self.commands["follow"], "f  follow the end", id="do-follow")
        yield LogView(id="log")
        yield Input(
            placeholder="search the whole log; Enter, or find once more, begins; Esc ends",
            id="search",
            compact=True,
        )

    def on_mount(self) -> None:
        """The search line comes when it is asked for."""
        self.query_one("#search").display = False

    @property
    def view(self) -> LogView:
        """What shows it."""
        return self.query_one(LogView)

    @property
    def reading(self) -> tuple[Stage, int] | None:
        """The stage and attempt in whose log somebody reads further up; None while its end is followed."""
        if self.shown is None or self.view.following:
            return None
        return self.shown.stage, self.shown.attempt

    # --- which log

    def choose(self, stage: Stage, attempt: int, last: int, words: str, chosen: bool) -> None:
        """Shows an attempt's log.

        Args:
            last: the newest attempt's number.
            words: shown while there is nothing in it.
            chosen: a person chose it, so it does not follow the run.
        """
        self.view.placeholder = words
        number = f"attempt {attempt}" + (f" of {last}" if last > 1 else "")
        self._title = f"{stage} {number}" + (" (chosen)" if chosen else "")
        self.query_one("#older").display = attempt > 1
        self.query_one("#newer").display = attempt < last
        if self.shown != Shown(stage, attempt):
            self.shown = Shown(stage, attempt)
            self._path = ""
            self.view.clear()
            self.view.following = True
            self._forget_hits()
            self._follow(self.shown)
        self._show_title()

    @work(exclusive=True, group="log", exit_on_error=False)
    async def _follow(self, shown: Shown, fresh: bool = True) -> None:
        try:
            await in_background(lambda: self._follow_now(shown, fresh))
        except UserError as error:
            # Followed with the next snapshot, when the link is back.
            self.shown = None
            self.notify(error.message, severity="warning", markup=False)

    def _follow_now(self, shown: Shown, fresh: bool) -> None:
        live = self._live()
        path = live.do(lambda run: run.layout.log(shown.stage, shown.attempt))
        # One after another: of two that wait for a slow link, the one that was chosen first may get it last.
        with self._following:
            if self.shown == shown:
                self._path = path
                live.follow_log(path, fresh)

    def _show_title(self) -> None:
        view = self.view
        parts = []
        if self._needle:
            number = self._count - len(self._hits) + self._at + 1
            words = cut_text(self._needle, LONGEST_NEEDLE)
            parts.append(f"{number}/{self._count} {words!r}" if self._hits else f"no {words!r}")
        if not view.following:
            parts.append("paused")
        self.query_one("#log-title", Static).update(self._title)
        self._tell(" · ".join(parts))
        self.screen.refresh_bindings()
        self.query_one("#do-follow").set_class(view.following, "on")
        self.query_one("#do-wrap").set_class(view.wrap, "on")
        for name in ("#do-next", "#do-previous"):
            self.query_one(name).display = bool(self._hits)

    def _tell(self, words: str) -> None:
        """Beside the title, which gives way where there is no room for both."""
        line = self.query_one("#log-found", Static)
        line.display = bool(words)
        line.update(words)

    @on(LogView.FollowingChanged)
    def _following_changed(self) -> None:
        self._show_title()

    # --- what arrives

    def take(self, read: LogRead) -> None:
        """A piece of a log, from any thread."""
        if self._inbox.put(read):
            self.post_message(self.Arrived())

    @on(Arrived)
    def _arrived(self) -> None:
        self.set_timer(self._pause, self._drain)

    def _drain(self) -> None:
        """Shows what came; a terminal that is slow with it gets more time for the keys in between."""
        began, arrived = time.monotonic(), 0
        for fresh, start, data in _joined([one for one in self._inbox.take() if one.path == self._path]):
            arrived += len(data)
            if fresh:
                self.view.clear(start)
            since = self.view.window.end
            self.view.append(data, start)
            self._find_in_new(since)
        pause = BURST_PAUSE if arrived > BURST_BYTES else PAUSE
        self._pause = max(pause, SHARE * (time.monotonic() - began))

    @on(LogView.Wanted)
    @work(exclusive=True, group="log-part", exit_on_error=False)
    async def _fetch(self, wanted: LogView.Wanted) -> None:
        shown, view = self.shown, self.view
        begin = wanted.offset if wanted.where == "after" else max(0, wanted.offset - PIECE)
        limit = wanted.offset - begin if wanted.where == "before" else 2 * PIECE
        piece = await self._asked(lambda log: log.read(begin, limit))
        if piece is None or self.shown != shown:
            view.not_there()
        elif wanted.where == "at" and wanted.moves != view.moves:
            # Somebody went elsewhere while it was fetched.
            return
        elif wanted.where == "before":
            view.prepend(piece.data, piece.start)
        elif wanted.where == "after":
            view.extend(piece.data, piece.start, piece.size)
        else:
            view.show(*_whole_lines(piece), piece.size, wanted.offset)

    async def _asked(self, ask: Callable[[LogFile], Answer]) -> Answer | None:
        """What the log's file answers; None, told to the person, when it cannot be asked."""
        path = self._path
        try:
            return await in_background(lambda: ask(self._live().log_file(path)))
        except UserError as error:
            self.notify(error.message, severity="warning", markup=False)
            return None

    @on(LogView.EndWanted)
    def _end_wanted(self) -> None:
        if self.shown is not None:
            # Not void: who scrolls back before the end comes keeps what is here.
            self._follow(self.shown, fresh=False)

    # --- search

    def search(self) -> None:
        """Shows the search line."""
        line = self.query_one("#search", Input)
        if not self._typing:
            self._before_search = self.screen.focused
        self._show_line(True)
        # At once: what is typed after the slash is text, not keys of the screen.
        self.screen.set_focus(line)

    def find(self) -> None:
        """Shows the search line; where it holds a text already, begins the search for it."""
        line = self.query_one("#search", Input)
        if self._typing and line.value.strip():
            self._begin(line.value)
        else:
            self.search()

    @property
    def searching(self) -> bool:
        """Whether there is a search to end."""
        return bool(self._needle) or self._typing or self._seeks

    @property
    def _seeks(self) -> bool:
        return self._search is not None and self._search.is_running

    def end_search(self) -> None:
        """Forgets what was searched for; a line that was only typed in gives the cursor back."""
        before = self._before_search if self._typing else None
        self._show_line(False)
        self._forget_hits()
        self._show_title()
        self.screen.set_focus(before if before is not None and before.focusable else self.view)

    def _show_line(self, shown: bool) -> None:
        self._typing = shown
        self.query_one("#search").display = shown
        self.query_one("#do-find").set_class(shown, "on")

    def _forget_hits(self) -> None:
        if self._search is not None:
            self._search.cancel()
        self._needle, self._hits, self._count, self._at = "", [], 0, -1
        self.view.highlight("")

    @on(Input.Submitted, "#search")
    def _submitted(self, event: Input.Submitted) -> None:
        if event.value.strip():
            self._begin(event.value)
        else:
            self.end_search()

    def _begin(self, text: str) -> None:
        self.view.focus()
        self._show_line(False)
        self._forget_hits()
        self._search = self._find(text.strip())
        self.screen.refresh_bindings()

    @work(exclusive=True, group="find", exit_on_error=False)
    async def _find(self, needle: str) -> None:
        view, shown, moves = self.view, self.shown, self.view.moves
        view.highlight(needle)
        if view.window.start == 0 and not view.detached:
            sought, data = needle.encode("utf-8", "surrogateescape"), view.window.bytes_since(0)
            found = await in_background(lambda: find_lines(data, sought))
            hits: LogHits | None = LogHits(len(found), tuple(found))
        else:
            self._tell(f"searching {cut_text(needle, LONGEST_NEEDLE)!r} …")
            hits = await self._asked(lambda log: log.find(needle))
        if hits is None or self.shown != shown:
            self._show_title()
            return
        self._needle, self._hits, self._count = needle, list(hits.offsets), hits.count
        self._at = max(0, bisect_right(self._hits, view.bottom_offset) - 1)
        # Who has scrolled meanwhile goes on from there, with the keys for the next match and the one before.
        if self._hits and view.moves == moves:
            view.go_to(self._hits[self._at])
        elif not self._hits:
            # Of a log that is still on its way, it is sought in what comes.
            self.notify(f"{needle!r} is not in this log." if view.window.end else NOTHING_YET, markup=False)
        self._show_title()

    def _find_in_new(self, since: int) -> None:
        """What came since then may hold what is searched for."""
        if not self._needle or self.view.window.end <= since:
            return
        window = self.view.window
        begin = window.offset(window.index_of(max(since - 1, window.start)))
        while self._hits and self._hits[-1] >= begin:
            self._hits.pop()
            self._count -= 1
        sought = self._needle.encode("utf-8", "surrogateescape")
        new = [begin + offset for offset in find_lines(window.bytes_since(begin), sought)]
        self._hits += new
        self._count += len(new)
        self._show_title()

    def step(self, by: int) -> None:
        """Goes to the next or previous match, round the end."""
        if not self._hits:
            if not self._needle:
                self.notify("Nothing is searched for: / begins.")
            return
        self._at = (self._at + by) % len(self._hits)
        self.view.go_to(self._hits[self._at])
        self._show_title()

    @work(exclusive=True, group="find", exit_on_error=False)
    async def first_error(self) -> None:
        """Goes to the first line of the file that looks like an error."""
        view, shown, moves = self.view, self.shown, self.view.moves
        if view.window.start == 0 and not view.detached:
            data = view.window.bytes_since(0)
            offset = await in_background(lambda: first_error(data))
        else:
            answer = await self._asked(lambda log: (log.first_error(),))
            if answer is None:
                return
            (offset,) = answer
        if self.shown != shown:
            return
        if offset is None:
            self.notify("No line here looks like an error." if view.window.end else NOTHING_YET)
        elif view.moves == moves:
            view.go_to(offset)
        else:
            self.notify("The first error is found: e goes there.")

    # --- pager

    @work(exclusive=True, group="pager", exit_on_error=False)
    async def page(self) -> None:
        """Opens the log in the person's pager: a copy in a file that only they can read, removed afterwards."""
        late = LateAnswer(self.screen)
        handle = tempfile.NamedTemporaryFile(prefix="llama-tui-", suffix=".log", delete=False)  # noqa: SIM115
        try:
            with handle:
                skipped = await self._asked(lambda log: log.fetch(handle, self._fetching))
            if skipped is None:
                return
            if not late.welcome:
                late.tell("The log can be shown now: p opens the pager.")
                return
            problem = show_in_pager(self.app, handle.name)
        finally:
            Path(handle.name).unlink(missing_ok=True)
            self._show_title()
        if problem:
            self.notify(problem, severity="warning", markup=False)
        elif skipped:
            self.notify(f"The first {skipped / 2**20:.0f} MB of the log were left out.")

    def _fetching(self, done: int, of: int) -> None:
        """Called on a background thread."""
        words = f"fetched {done / 2**20:.0f} of {of / 2**20:.0f} MB"
        self.app.call_from_thread(self._tell, words)


def _joined(reads: list[LogRead]) -> list[tuple[bool, int, bytes]]:
    """Pieces that follow each other as one: whether it begins anew, its offset, and its bytes."""
    joined: list[tuple[bool, int, list[bytes]]] = []
    end = -1
    for read in reads:
        data = read.text.encode("utf-8", "surrogateescape")
        if joined and not read.fresh and read.start == end:
            joined[-1][2].append(data)
        else:
            joined.append((read.fresh, read.start, [data]))
        end = read.start + len(data)
    return [(fresh, start, b"".join(parts)) for fresh, start, parts in joined]


def _whole_lines(piece: LogPiece) -> tuple[bytes, int]:
    """A piece from its first whole line on."""
    if piece.start == 0:
        return piece.data, 0
    cut = piece.data.find(b"\n") + 1
    return piece.data[cut:], piece.start + cut
