"""The questions about more prompts: what to ask both models, and how the answers are sampled."""

from __future__ import annotations

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.widgets import Button, Input, Label, Static, TextArea

from llama_tui.backend.errors import UserError
from llama_tui.backend.more_prompts import Questions, questions, read_prompts_file, split_prompts
from llama_tui.backend.settings import SettingsError
from llama_tui.tui.background import in_background
from llama_tui.tui.screens.dialogs import Dialog

_SAMPLING = ("max_new_tokens", "temperature", "top_p", "repetition_penalty", "seed")


class AskPrompts(Dialog[Questions | None]):
    """Gives checked questions; Escape gives None.

    Args:
        first: the values that the fields begin with; its prompts are not shown.
    """

    BINDINGS = [
        Binding("escape", "leave", "Leave"),
        Binding("ctrl+s", "ask", "Ask"),
    ]

    def __init__(self, first: Questions) -> None:
        super().__init__()
        self._first = first

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog wide-dialog", id="ask"):
            yield Label("Ask both models more", classes="dialog-title", markup=False)
            yield Label("Prompts: one a line, or paragraphs with an empty line between", markup=False)
            yield TextArea(id="prompts", tab_behavior="focus", compact=True)
            with Horizontal(classes="ask-line"):
                yield Label("or a file of them", markup=False)
                yield Input(
                    placeholder="a path on this computer; text, or a prompts.json", id="file", compact=True
                )
            with Horizontal(classes="ask-line"):
                yield Label("system prompt", markup=False)
                yield Input(self._first.system_prompt, id="system_prompt", compact=True)
            for name in _SAMPLING:
                field = Questions.model_fields[name]
                with Horizontal(classes="ask-line"):
                    yield Label(field.title or name, markup=False)
                    box = Input(str(getattr(self._first, name)), id=name, compact=True)
                    box.tooltip = field.description
                    yield box
            yield Static("", id="ask-problem", classes="problem", markup=False)
            with Horizontal(classes="dialog-buttons"):
                yield Button("Ask (ctrl+s)", variant="primary", id="go", compact=True)
                yield Button("Leave (Esc)", id="leave", compact=True)

    def on_mount(self) -> None:
        """The prompts come first."""
        self.query_one("#prompts").focus()

    @on(Input.Submitted)
    def _next_field(self) -> None:
        self.focus_next()

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "go":
            self.action_ask()
        else:
            self.action_leave()

    def action_leave(self) -> None:
        """No questions."""
        self.dismiss(None)

    @work(exclusive=True, group="ask", exit_on_error=False)
    async def action_ask(self) -> None:
        """Checks everything; ends the dialog when all is well."""
        file = self.query_one("#file", Input).value.strip()
        try:
            prompts = split_prompts(self.query_one("#prompts", TextArea).text)
            if file:
                prompts += await in_background(lambda: read_prompts_file(file))
            names = ("system_prompt", *_SAMPLING)
            found = questions(
                prompts=prompts, **{name: self.query_one(f"#{name}", Input).value.strip() for name in names}
            )
        except SettingsError as error:
            self._tell(error)
        except UserError as error:
            self.query_one("#ask-problem", Static).update(f"{error.message}. {error.hint}".strip())
            self.query_one("#file").focus()
        else:
            self.dismiss(found)

    def _tell(self, error: SettingsError) -> None:
        """The first problem, with the cursor in its field."""
        field, words = next(iter(error.problems.items()))
        title = Questions.model_fields[field].title or field
        if field == "prompts" and not self.query_one("#prompts", TextArea).text.strip():
            words = "nothing is asked yet"
        self.query_one("#ask-problem", Static).update(f"{title}: {words}")
        self.query_one(f"#{field}").focus()
