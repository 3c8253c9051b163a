"""A field of the settings as a row: label, answer, help, and what is wrong with it in words."""

from __future__ import annotations

from enum import EnumType
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.events import Focus
from textual.message import Message
from textual.suggester import Suggester
from textual.widget import Widget
from textual.widgets import Input, Label, Static
from textual.widgets.input import Selection

from llama_tui.backend.dependent import Follower
from llama_tui.backend.settings import Section, Settings
from llama_tui.tui.widgets.choice import Choice

YES, NO = "yes", "no"


def field_of(path: str) -> FieldInfo:
    """The settings' own description of a dotted field name."""
    model: type[Settings | Section] = Settings
    *sections, name = path.split(".")
    for section in sections:
        annotation = model.model_fields[section].annotation
        assert isinstance(annotation, type) and issubclass(annotation, Section)
        model = annotation
    return model.model_fields[name]


class AnswerInput(Input):
    """Chosen as a whole when it gets the focus, as others are, but with its beginning in sight."""

    def on_focus(self, event: Focus) -> None:
        """Turns the selection round, which Textual makes behind this."""
        if not event.from_app_focus:
            self.call_next(self._select_from_the_end)

    def _select_from_the_end(self) -> None:
        self.selection = Selection(len(self.value), 0)


class FieldRow(Vertical):
    """One field. `answer` is what pydantic is given for it: text, bool, or a list of texts.

    Args:
        path: its dotted name.
        value: the answer to show first.
    """

    class Left(Message):
        """The field was left, or its answer chosen: time to check it."""

        def __init__(self, row: FieldRow) -> None:
            super().__init__()
            self.row = row

    def __init__(self, path: str, value: Any, suggester: Suggester | None = None) -> None:
        super().__init__(id="field-" + path.replace(".", "-"))
        self.path = path
        self.touched = False
        self._given = False
        self._shown: Any = None
        self._follows: Follower | None = None
        self._problem = ""
        # Asked for at every key: a search in the DOM takes too long for that.
        self._inputs: list[Input] = []
        self._choice: Choice | None = None
        self._info = field_of(path)
        self._value = value
        self._suggester = suggester
        annotation = self._info.annotation
        self._options = [one.value for one in annotation] if isinstance(annotation, EnumType) else None
        self._is_list = get_origin(annotation) is list
        self._free_list = self._is_list and isinstance(get_args(annotation)[0], EnumType) is False

    def compose(self) -> ComposeResult:
        title = self._info.title or self.path
        self._make_controls()
        with Horizontal(classes="field-line"):
            yield Label(title, classes="field-label")
            with Vertical(classes="field-answers"):
                yield from self.answers_in_order()
            yield Static("", classes="field-follows", markup=False)
        yield Static("", classes="field-problem", markup=False)

    def _make_controls(self) -> None:
        if self._options is not None:
            self._choice = Choice(self._options, str(self._value))
        elif isinstance(self._value, bool):
            self._choice = Choice([YES, NO], YES if self._value else NO)
        elif self._free_list:
            texts = [*self._value, ""]
            self._inputs = [AnswerInput(str(text), placeholder="one more", compact=True) for text in texts]
        else:
            text = ", ".join(self._value) if self._is_list else str(self._value)
            self._inputs = [AnswerInput(text, suggester=self._suggester, compact=True)]

    @property
    def answer(self) -> Any:
        """What was typed or chosen."""
        if self._choice is not None:
            return self._choice.value if self._options is not None else self._choice.value == YES
        texts = [one.value for one in self._inputs]
        if self._free_list:
            return [text for text in texts if text.strip()]
        if self._is_list:
            return [part for part in texts[0].replace(",", " ").split() if part]
        return texts[0]

    @property
    def ready(self) -> bool:
        """Whether it has its answer on the screen by now."""
        return self._shown is not None

    @property
    def given(self) -> bool:
        """Whether a person changed the answer."""
        self._given = self._given or (self.ready and self.answer != self._shown)
        return self._given

    def show(self, value: Any, follows: Follower | None) -> None:
        """Shows an answer that nobody gave, and what it follows from."""
        self.show_follows(follows)
        if self.answer == (value if isinstance(value, bool | list) else str(value)):
            return
        if self._choice is not None:
            self._choice.value = (YES if value else NO) if isinstance(value, bool) else str(value)
        texts = value if self._free_list else [", ".join(value) if self._is_list else str(value)]
        for one, text in zip(self._inputs, texts, strict=False):
            one.value = str(text)
        self._shown = self.answer

    def show_follows(self, follows: Follower | None) -> None:
        """Says what the answer follows from; nothing for None."""
        if follows == self._follows:
            return
        self._follows = follows
        mark = self.query_one(".field-follows", Static)
        mark.display = follows is not None
        mark.update(f"follows from {follows.source}" if follows else "")

    def show_problem(self, words: str) -> None:
        """Says what is wrong with the answer; nothing for an empty text."""
        if words == self._problem:
            return
        self._problem = words
        problem = self.query_one(".field-problem", Static)
        problem.update(f"✗ {words}" if words else "")
        self.set_class(bool(words), "invalid")

    @property
    def help(self) -> str:
        """One sentence, with the default and why; and what the answer follows from."""
        words = self._info.description or ""
        if self._follows is None:
            return words
        return f"{words} It follows from {self._follows.source} until you change it: {self._follows.why}"

    def answers_in_order(self) -> list[Widget]:
        """Where the cursor can go, in order."""
        return [*self._inputs] if self._choice is None else [self._choice]

    def on_mount(self) -> None:
        """A long answer shows its beginning."""
        for one in self._inputs:
            one.cursor_position = 0
        self.query_one(".field-follows").display = False
        self._shown = self.answer

    def on_input_blurred(self, event: Input.Blurred) -> None:
        """A field that is left is checked."""
        event.input.cursor_position = 0
        self.touched = True
        self.post_message(self.Left(self))

    def on_choice_changed(self) -> None:
        """A choice is checked at once."""
        self.touched = True
        self.post_message(self.Left(self))
