"""Both models' answers to the same prompts, side by side in one scroll; the words that differ are underlined."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.containers import Horizontal, VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from llama_tui.backend.comparison import Answer, Comparison, Pair
from llama_tui.backend.more_prompts import Asked
from llama_tui.backend.plain import printable
from llama_tui.backend.report_text import MARKS
from llama_tui.backend.word_diff import Piece, WordDiff, word_diff
from llama_tui.tui.words import cut_text

MODES = ("both", "greedy", "sampled")
# Where less than this part of the words is shared, underlining nearly everything would show nothing.
LITTLE_SHARED = 0.15
# Of a prompt, so much is shown where it is only named.
LONGEST_PROMPT = 32


class AnswersView(VerticalScroll):
    """Shows a comparison, and what was asked later below it."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._shown: tuple[Comparison | None, tuple[Asked, ...], str] | None = None
        # Where somebody was who waits for an answer.
        self._waits_at = 0

    async def show(self, comparison: Comparison | None, later: Sequence[Asked], mode: str) -> None:
        """Shows exactly these; what is shown already is not touched, and the place in it is kept."""
        wanted = comparison, tuple(later), mode
        if wanted == self._shown:
            return
        self._shown = wanted
        at = self.scroll_offset.y
        widgets: list[Widget] = []
        if comparison is not None:
            widgets += [Static(_facts(comparison), classes="facts", markup=False)]
            widgets += _pairs(comparison, mode)
        for asked in later:
            title = Static(
                _asked_title(asked), classes="asked-title", markup=False, id=f"asked-{asked.number}"
            )
            widgets.append(title)
            if asked.comparison is not None:
                widgets += _pairs(asked.comparison, mode)
            else:
                widgets += [Static(printable(one), classes="question", markup=False) for one in asked.prompts]
        async with self.batch():
            await self.remove_children()
            await self.mount_all(widgets)
        self.call_after_refresh(self.scroll_to, y=at, animate=False)

    def wait_here(self) -> None:
        """Whoever is still here when an answer comes is led to it."""
        self._waits_at = self.scroll_offset.y

    def lead_to_asked(self, number: int) -> None:
        """To what was asked later under that number, as soon as it is laid out; nobody who has begun to read elsewhere."""
        if self.scroll_offset.y == self._waits_at:
            self.call_after_refresh(self._go_to, self.query_one(f"#asked-{number}"))

    def _go_to(self, title: Widget) -> None:
        self.scroll_to_widget(title, top=True, animate=False)
        self.call_after_refresh(self.wait_here)

    def go(self, by: int) -> None:
        """To the next prompt (1) or the one before (-1)."""
        top = self.scroll_offset.y
        tops = [question.virtual_region.y for question in self.query(".question")]
        ahead = [y for y in tops if y > top] if by > 0 else [y for y in reversed(tops) if y < top]
        self.scroll_to(y=ahead[0] if ahead else (self.max_scroll_y if by > 0 else 0), animate=False)


def asked_words(asked: Asked) -> str:
    """The first of the prompts, and how many more there are."""
    first = cut_text(" ".join(asked.prompts[0].split()), LONGEST_PROMPT) if asked.prompts else "a prompt"
    more = len(asked.prompts) - 1
    return f"“{first}”" + (f" and {more} more" if more > 0 else "")


def _facts(comparison: Comparison) -> str:
    tuned = comparison.fine_tuned
    return printable(
        f"asked with: {comparison.settings_words}\n"
        f"files: base {comparison.base.fingerprint[:12]}, fine-tuned {tuned.fingerprint[:12]}, "
        f"adapter {tuned.adapter_fingerprint[:12] or 'not known'}\n"
        "Words that only one side has are underlined, where enough are shared."
    )


def _asked_title(asked: Asked) -> str:
    words = [f"Asked later ({asked.number})", f"{MARKS[asked.state]} {asked.state}"]
    words += [f"job {asked.job_id}"] if asked.job_id else []
    words += [asked.reason] if asked.reason else []
    if asked.comparison is not None:
        words.append(asked.comparison.settings_words)
        words += [f"⚠ {warning}" for warning in asked.comparison.warnings]
    return printable("  ·  ".join(words))


def _pairs(comparison: Comparison, mode: str) -> list[Widget]:
    shown = [pair for pair in comparison.answers if mode in {"both", pair.mode}]
    most = comparison.settings.get("max_new_tokens")
    return [widget for pair in shown for widget in _pair(pair, most)]


def _pair(pair: Pair, most: object) -> tuple[Widget, Widget]:
    difference = word_diff(pair.base.content, pair.fine_tuned.content)
    if pair.identical:
        words = "⚠ the two answers are the same"
    else:
        words = f"{difference.shared:.0%} of the words shared"
    question = Static(printable(f"{pair.user}  ({pair.mode} · {words})"), classes="question", markup=False)
    if pair.system:
        question.tooltip = printable(f"System prompt: {pair.system}").replace("[", r"\[")
    left, right = _marked(difference, pair)
    sides = Horizontal(
        Static(_side("base", pair.base, left, most), classes="answer", markup=False),
        Static(_side("fine-tuned", pair.fine_tuned, right, most), classes="answer", markup=False),
        classes="pair",
    )
    return question, sides


def _marked(difference: WordDiff, pair: Pair) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    if difference.shared < LITTLE_SHARED:
        return (Piece(pair.base.content, False),), (Piece(pair.fine_tuned.content, False),)
    return difference.left, difference.right


def _side(title: str, answer: Answer, pieces: tuple[Piece, ...], most: object) -> Text:
    cut = ", cut off" if answer.tokens == most else ""
    text = Text(f"{title} ({answer.tokens} tokens{cut})\n\n", style="dim")
    shown = Text()
    for piece in pieces:
        shown.append(printable(piece.text), style="bold underline" if piece.changed else "")
    return Text.assemble(text, shown or "(nothing)")
