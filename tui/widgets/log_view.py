"""A log that stays smooth: bytes are kept as they came, and only the lines in sight are looked at."""

from __future__ import annotations

from dataclasses import dataclass

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import Binding
from textual.cache import LRUCache
from textual.events import Click, Resize
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from llama_tui.backend.log_search import looks_like_error
from llama_tui.backend.log_window import LogWindow
from llama_tui.tui.widgets.log_rows import LogRows, plain

# Nearer to the beginning than this, in rows, what is before it is fetched.
NEAR = 5
# Drawn lines that are kept: some screens full. Each is thirty objects, and garbage is looked for among all of them.
STRIPS = 200


class LogView(ScrollView, can_focus=True):
    """Shows a window of a log. Follows its end until somebody scrolls up, and again when back at the end.

    Where it needs parts of the file that it does not have, it says so (`Wanted`); whoever reads files gives them.

    Attributes:
        moves: how often somebody went elsewhere in the log: an answer that comes later must not take them away again.
    """

    BINDINGS = [
        Binding("home", "to_start", "Start of the log", show=False),
        Binding("end", "to_end", "End of the log", show=False),
        Binding("f", "follow", "Follow"),
        # The screen's own; here it comes early in the line of keys, where a narrow terminal has room for it.
        Binding("escape", "screen.end_search", "End search"),
    ]

    following: reactive[bool] = reactive(True)
    wrap: reactive[bool] = reactive(False)

    @dataclass
    class FollowingChanged(Message):
        """The view follows the log's end, or does not any more."""

        following: bool

    @dataclass
    class Wanted(Message):
        """A part of the file is needed: what lies before or after the window, or (`at`) around a byte offset.

        Attributes:
            moves: the view's, when it was wanted.
        """

        where: str
        offset: int
        moves: int

    class EndWanted(Message):
        """The file's end is wanted, and it is not here."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.window = LogWindow()
        self.rows = LogRows(self.window)
        self.file_end = 0
        self.moves = 0
        self.placeholder = ""
        self._width = 1
        self._needle = ""
        self._marked = -1
        # Where somebody reads: the byte offset of the first line in sight, and how many rows were in sight then.
        self._place = (0, 0)
        self._laid_out = Size(0, 0)
        self._moving = False
        self._waiting = False
        self._base = Style.null()
        self._strips: LRUCache[tuple[object, ...], Strip] = LRUCache(STRIPS)

    # --- what it holds

    @property
    def text(self) -> str:
        """All lines that are here."""
        return "\n".join(self.window.line(index) for index in range(self.window.line_count))

    @property
    def line_count(self) -> int:
        """How many lines are here, with one that has not ended yet."""
        return self.window.line_count

    @property
    def detached(self) -> bool:
        """Whether the file goes on after what is here."""
        return self.window.end < self.file_end

    def clear(self, start: int = 0) -> None:
        """Forgets everything; `start` is the byte offset of what comes next."""
        self.window.clear(start)
        self.file_end = start
        self._width, self._marked, self._waiting = 1, -1, False
        self._place = (start, 0)
        self._strips.clear()
        self.rows.measure()
        self._resize()
        self.refresh()

    def append(self, data: bytes | str, start: int | None = None) -> None:
        """Adds a piece that was appended to the file, of any size; it need not end with a line.

        Args:
            start: its byte offset; None where it follows what is here.
        """
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogateescape")
        window = self.window
        start = window.end if start is None else start
        self.file_end = max(self.file_end, start + len(data))
        if start < window.end:
            data, start = data[window.end - start :], window.end
        if not data:
            return
        if start > window.end:
            if not self.following:
                return
            cut = data.find(b"\n") + 1
            self.clear(start + cut)
            data = data[cut:]
        elif not self.following and window.full:
            return
        self._add(data)

    def _add(self, data: bytes) -> None:
        first = max(0, self.window.line_count - 1)
        width = self.window.append(data)
        self.file_end = max(self.file_end, self.window.end)
        # A line that came in pieces is wider than its last piece.
        self._width = max(self._width, width, len(self.window.line(first)))
        self.rows.measure(first)
        self._resize()
        if self.following:
            self._trim_front()
            self._to_end()
        self.refresh()

    def prepend(self, data: bytes, start: int) -> None:
        """Adds the piece before what is here, and stays where it was."""
        self._waiting = False
        if start + len(data) != self.window.start:
            return
        lines, width = self.window.prepend(data, start)
        self.window.trim_back()
        self._width = max(self._width, width)
        self.rows.measure()
        self._resize()
        self.refresh()
        self._move_to(self.scroll_offset.y + self.rows.row_of(lines))

    def extend(self, data: bytes, start: int, size: int) -> None:
        """Adds the piece after what is here, and stays where it was."""
        self._waiting = False
        self.file_end = max(self.file_end, size)
        if start != self.window.end or not data:
            return
        self._add(data)
        self._trim_front()

    def show(self, data: bytes, start: int, size: int, offset: int) -> None:
        """Shows another part of the file, with the line at a byte offset in the middle."""
        self.following = False
        self.clear(start)
        self.file_end = size
        self.window.append(data)
        self._remeasure()
        self.refresh()
        self.call_after_refresh(self.go_to, offset)

    def _trim_front(self) -> None:
        lines = self.window.trim_front()
        if not lines:
            return
        rows = self.rows.drop(lines)
        self._resize()
        if not self.following:
            self._move_to(self.scroll_offset.y - rows)

    # --- rows

    def _remeasure(self) -> None:
        """Takes in all lines anew."""
        self._strips.clear()
        self._width = self.window.width()
        self.rows.room = max(10, self.scrollable_content_region.width)
        self.rows.measure()
        self._resize()

    def _resize(self) -> None:
        """Tells the scroll bars; not the whole screen, whose layout no line of a log changes."""
        size = Size(1 if self.wrap else self._width, self.rows.count)
        if size == self.virtual_size:
            return
        bars, moving = self.scrollbars_enabled, self._moving
        self.set_reactive(LogView.virtual_size, size)
        self._moving = True
        self._scroll_update(size)
        self._moving = moving
        if bars != self.scrollbars_enabled:
            # There is less room, or more, after the next layout.
            self.call_after_refresh(self._to_end)

    def on_resize(self, event: Resize) -> None:
        """Who follows the end stays there, who reads keeps the place, however high or wide the pane has become."""
        del event
        self._laid_out = self.size
        if self.wrap:
            self._measure_anew(self.wrap)
        else:
            self.call_after_refresh(self._back)

    def action_wrap(self) -> None:
        """Long lines go on in the next row, or out of sight."""
        self._measure_anew(not self.wrap)

    def _measure_anew(self, wrap: bool) -> None:
        self.wrap = self.rows.wrap = wrap
        self._remeasure()
        self.refresh()
        self.call_after_refresh(self._back)

    def _remember_place(self) -> None:
        line, _ = self.rows.line_at(self.scroll_offset.y)
        top = self.window.offset(line) if line < self.window.line_count else self.window.start
        self._place = (top, self.scrollable_content_region.height)

    def _back(self) -> None:
        """To the end, or to the remembered place: its first line on top, the marked one in sight if it was."""
        if self.following:
            self._to_end()
            return
        top, height = self._place
        row, now = self._row_at(top), self.scrollable_content_region.height
        marked = self._row_at(self._marked)
        if now <= marked - row < height:
            row = marked - now // 2
        self._move_to(row)

    def _row_at(self, offset: int) -> int:
        """The row of the line at a byte offset; the first one for what is not here."""
        here = self.window.start <= offset <= self.window.end and self.window.line_count
        return self.rows.row_of(self.window.index_of(offset)) if here else 0

    # --- drawing

    def render_lines(self, crop: Region) -> list[Strip]:
        """Rows of the widget; what all have in common is looked up once."""
        self._base = self.rich_style
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        """The row `y` of the widget."""
        left, top = self.scroll_offset
        row, width, style = y + top, self.scrollable_content_region.width, self._base
        index, part = self.rows.line_at(row)
        if index >= self.window.line_count:
            words = self.placeholder if row == 0 else ""
            return Strip([Segment(words, style + Style(dim=True))]).crop_extend(0, width, style)
        if self.wrap:
            left = part * self.rows.room
        strip = self._strip(index)
        return strip.crop_extend(left, left + width, style).apply_offsets(left, index)

    def _strip(self, index: int) -> Strip:
        selection = self.text_selection
        span = selection.get_span(index) if selection is not None else None
        offset = self.window.offset(index)
        end = self.window.end if index + 1 == self.window.line_count else 0
        key = (offset, end, self._needle, offset == self._marked, span, self._base)
        cached = self._strips.get(key)
        if cached is None:
            cached = self._strips[key] = self._draw(index, span)
        return cached

    def _draw(self, index: int, span: tuple[int, int] | None) -> Strip:
        line = self.window.line(index)
        text = Text.from_ansi(line) if "\x1b" in line else Text(line)
        if looks_like_error(text.plain.encode("utf-8", "replace")):
            text.stylize("bold red")
        marked = self.window.offset(index) == self._marked
        if self._needle:
            style = "reverse bold" if marked else "reverse"
            text.highlight_words([self._needle], style, case_sensitive=False)
        if marked:
            text.stylize("underline")
        if span is not None:
            start, end = span
            style_of = self.screen.get_component_rich_style("screen--selection")
            text.stylize(style_of, start, len(text) if end == -1 else end)
        base = self._base
        segments = [
            Segment(one.text, base + (one.style or Style.null()))
            for one in text.render(self.app.console)
            if one.text
        ]
        return Strip(segments, text.cell_len)

    # --- moving

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Scrolling up stops the following; arriving at the end begins it again."""
        super().watch_scroll_y(old_value, new_value)
        if self._moving:
            return
        # Before the new layout is known here, nobody scrolled: there is only less to scroll.
        if self.size == self._laid_out:
            self._remember_place()
        if new_value < old_value and new_value < self.max_scroll_y:
            self.following = False
        elif new_value > old_value and new_value >= self.max_scroll_y:
            if self.detached:
                self._want("after", self.window.end)
            else:
                self.following = True
        if new_value < old_value and new_value <= NEAR and self.window.start > 0:
            self._want("before", self.window.start)

    def watch_scroll_target_y(self) -> None:
        """Somebody scrolls."""
        if not self._moving:
            self.moves += 1

    def _want(self, where: str, offset: int) -> None:
        if not self._waiting:
            self._waiting = True
            self.post_message(self.Wanted(where, offset, self.moves))

    def not_there(self) -> None:
        """What was wanted cannot be had now; the next try asks again."""
        self._waiting = False

    def watch_following(self, following: bool) -> None:
        """Tells whoever shows it."""
        self.post_message(self.FollowingChanged(following))

    def _move_to(self, row: int) -> None:
        self._moving = True
        try:
            self.scroll_to(y=max(0, row), animate=False, immediate=True)
        finally:
            self._moving = False

    def _to_end(self) -> None:
        if self.following:
            self._moving = True
            self.scroll_end(animate=False, immediate=True, x_axis=False)
            self._moving = False
            self._remember_place()

    def action_follow(self) -> None:
        """Goes to the end and stays there, or stays here."""
        if self.following:
            self.moves += 1
            self.following = False
        else:
            self.action_to_end()

    def action_to_end(self) -> None:
        """Goes to the end and stays there."""
        self.moves += 1
        self.following = True
        if self.detached:
            self.post_message(self.EndWanted())
        self.call_after_refresh(self._to_end)

    def action_to_start(self) -> None:
        """Goes to the very first line of the file."""
        self.moves += 1
        self.following = False
        if self.window.start > 0:
            self.post_message(self.Wanted("at", 0, self.moves))
        else:
            self._move_to(0)
            self._remember_place()

    def go_to(self, offset: int) -> None:
        """Marks the line at a byte offset of the file and shows it, fetched where it is not here."""
        self.moves += 1
        if not self.window.start <= offset <= self.window.end or not self.window.line_count:
            self.post_message(self.Wanted("at", offset, self.moves))
            return
        self.following = False
        index = self.window.index_of(offset)
        self._marked = self.window.offset(index)
        self._move_to(self.rows.row_of(index) - self.scrollable_content_region.height // 2)
        self._remember_place()
        self.refresh()

    # --- finding and copying

    @property
    def bottom_offset(self) -> int:
        """The byte offset of the last line in sight."""
        if not self.window.line_count:
            return self.window.start
        bottom = self.rows.line_at(self.scroll_offset.y + self.scrollable_content_region.height - 1)[0]
        return self.window.offset(min(bottom, self.window.line_count - 1))

    def highlight(self, needle: str) -> None:
        """Marks every occurrence in sight; an empty text ends it."""
        self._needle = needle
        self._strips.clear()
        self.refresh()

    def on_click(self, event: Click) -> None:
        """Marks the line under the mouse, to be copied."""
        index, _ = self.rows.line_at(event.y + self.scroll_offset.y)
        if index < self.window.line_count:
            self._marked = self.window.offset(index)
            self._remember_place()
            self.refresh()

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The selected text."""
        first = selection.start.y if selection.start else 0
        last = selection.end.y if selection.end else self.window.line_count - 1
        lines = [self._plain(index) for index in range(first, min(last, self.window.line_count - 1) + 1)]
        if lines and selection.end:
            lines[-1] = lines[-1][: selection.end.x] if last < self.window.line_count else lines[-1]
        if lines and selection.start:
            lines[0] = lines[0][selection.start.x :]
        return "\n".join(lines), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        """Draws it."""
        del selection
        self.refresh()

    def _plain(self, index: int) -> str:
        return plain(self.window.line(index))

    def action_copy_line(self) -> None:
        """To the clipboard: what is selected, else the marked line, else the last one in sight."""
        words = self.screen.get_selected_text()
        if not words and self.window.line_count:
            here = self.window.start <= self._marked <= self.window.end
            words = self._plain(self.window.index_of(self._marked if here else self.bottom_offset))
        if words:
            self.app.copy_to_clipboard(words)
            self.notify(f"Copied {len(words):,} characters.")
