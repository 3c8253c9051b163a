"""A run's comparisons as a page to keep or to send: Markdown, or one HTML file that needs no other."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from llama_tui.backend.comparison import Answer, Comparison, Pair
from llama_tui.backend.plain import printable
from llama_tui.backend.word_diff import Piece, word_diff

# Nothing but these styles: the page loads nothing and runs nothing, and says so to the browser.
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --mark: #ffd54a66; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { padding: .2rem .8rem; text-align: left; border-bottom: 1px solid var(--line); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.side { border-left: 3px solid var(--line); padding-left: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.side b { display: block; } .system, .note { opacity: .75; } mark { background: var(--mark); color: inherit; text-decoration: underline; }
@media (max-width: 40rem) { .pair { grid-template-columns: 1fr; } }
"""
_HEAD = (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
)


def _facts(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Rows of the table at the top: what, of the base, of the fine-tuned."""
    held, base, tuned = comparison.held_out, comparison.base, comparison.fine_tuned
    rows = []
    if held is not None:
        rows = [
            ("held-out loss", f"{held.base_loss:.3f}", f"{held.fine_tuned_loss:.3f}"),
            ("held-out perplexity", f"{held.base_perplexity:.1f}", f"{held.fine_tuned_perplexity:.1f}"),
        ]
    return [
        *rows,
        ("files", base.fingerprint[:12], tuned.fingerprint[:12]),
        ("adapter", "none", tuned.adapter_fingerprint[:12] or "not known"),
    ]


def _notes(comparison: Comparison) -> list[str]:
    held = comparison.held_out
    measured = (
        [f"{held.words} Measured on {held.records} held-out records ({held.tokens} tokens)."] if held else []
    )
    return [*measured, f"Asked with: {comparison.settings_words}.", *_warnings(comparison)]


def _warnings(comparison: Comparison) -> list[str]:
    return [f"Warning: {words}" for words in comparison.warnings]


# --- Markdown


def to_markdown(comparisons: Sequence[Comparison], run_id: str) -> str:
    """The comparisons as a page of Markdown: the first with its losses, later ones with their answers."""
    first, *later = comparisons
    lines = [f"# {run_id}: base and fine-tuned", "", "| | base | fine-tuned |", "|---|---|---|"]
    lines += [f"| {what} | `{left}` | `{right}` |" for what, left, right in _facts(first)]
    for note in _notes(first):
        lines += ["", note]
    lines += _markdown_answers(first)
    for number, comparison in enumerate(later, 1):
        lines += ["", f"# Asked later ({number})", "", f"Asked with: {comparison.settings_words}."]
        for words in _warnings(comparison):
            lines += ["", words]
        lines += _markdown_answers(comparison)
    return printable("\n".join(lines) + "\n")


def _markdown_answers(comparison: Comparison) -> list[str]:
    lines: list[str] = []
    for pair in comparison.answers:
        lines += ["", f"## {_inline(pair.user)} ({pair.mode})", ""]
        if pair.system:
            lines += [f"System prompt: {_inline(pair.system)}", ""]
        lines += ["**Base**", "", *_block(pair.base.content), "", "**Fine-tuned**", ""]
        lines += _block(pair.fine_tuned.content)
        if pair.identical:
            lines += ["", "The two answers are the same."]
    return lines


def _inline(text: str) -> str:
    """One line in which nothing is markup."""
    return "".join(f"\\{char}" if char in r"\`*_[]<>#|!" else char for char in " ".join(text.split()))


def _block(text: str) -> list[str]:
    """Indented as code, where Markdown and HTML in an answer mean nothing."""
    return [f"    {line}" for line in text.splitlines()] or ["    (nothing)"]


# --- HTML


def to_html(comparisons: Sequence[Comparison], run_id: str) -> str:
    """The comparisons as one HTML file. All foreign text is escaped; the page loads and runs nothing."""
    first, *later = comparisons
    rows = "\n".join(
        f"<tr><th>{_safe(what)}</th><td>{_safe(left)}</td><td>{_safe(right)}</td></tr>"
        for what, left, right in _facts(first)
    )
    parts = [
        f"{_HEAD}<title>{_safe(run_id)}: base and fine-tuned</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
        f"<h1>{_safe(run_id)}: base and fine-tuned</h1>",
        f"<table>\n<tr><th></th><th>base</th><th>fine-tuned</th></tr>\n{rows}\n</table>",
        *(f"<p>{_safe(note)}</p>" for note in _notes(first)),
        "<p class=note>Words that only one side has are underlined and marked.</p>",
        *(_html_pair(pair) for pair in first.answers),
    ]
    for number, comparison in enumerate(later, 1):
        parts.append(f"<h1>Asked later ({number})</h1>")
        parts.append(f"<p>Asked with: {_safe(comparison.settings_words)}.</p>")
        parts += [f"<p>{_safe(words)}</p>" for words in _warnings(comparison)]
        parts += [_html_pair(pair) for pair in comparison.answers]
    return "\n".join(parts) + "\n</body>\n</html>\n"


def _html_pair(pair: Pair) -> str:
    difference = word_diff(pair.base.content, pair.fine_tuned.content)
    system = f"<p class=system>System prompt: {_safe(pair.system)}</p>" if pair.system else ""
    same = "<p>The two answers are the same.</p>" if pair.identical else ""
    return (
        f"<section>\n<h2>{_safe(pair.user)} <small>({_safe(pair.mode)})</small></h2>{system}\n<div class=pair>"
        f"{_html_side('base', pair.base, difference.left)}"
        f"{_html_side('fine-tuned', pair.fine_tuned, difference.right)}</div>{same}\n</section>"
    )


def _html_side(title: str, answer: Answer, pieces: tuple[Piece, ...]) -> str:
    words = "".join(
        f"<mark>{_safe(piece.text)}</mark>" if piece.changed else _safe(piece.text) for piece in pieces
    )
    return f"<div class=side><b>{title} ({answer.tokens} tokens)</b>{words or '(nothing)'}</div>"


def _safe(text: str) -> str:
    return escape(printable(text))
