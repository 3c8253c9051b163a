"""Questions of a connection, asked on the screen; what is typed goes to whoever asked, and nowhere else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from textual.app import App
from textual.screen import ModalScreen
from textual.widget import Widget

from llama_tui.backend.hosts.ssh_ask import HostKeyQuestion, Prompt
from llama_tui.tui.screens.dialogs import Confirm, Secrets
from llama_tui.tui.screens.late_answer import typed_text

PATIENCE = 300.0
# Nobody is asked in the middle of a word, but when a text has stayed the same for so many seconds.
PAUSE = 1.0
Result = TypeVar("Result")


class ScreenAsk:
    """Asks through dialogs. Called on background threads; waits for the person, but not for ever.

    Args:
        ready: set when there is a screen for a dialog to lie on.
    """

    def __init__(self, app: App[Any], ready: threading.Event) -> None:
        self._app = app
        self._ready = ready

    def secret(self, title: str, prompts: list[Prompt]) -> list[str] | None:
        """The answers, or None when the dialog was left."""
        return self._shown(Secrets(title, prompts))

    def confirm_host_key(self, question: HostKeyQuestion) -> bool:
        """Whether the fingerprint is the right one."""
        words = (
            f"{question.key_type}\n{question.fingerprint}\n\nCompare it with what your administrator says."
        )
        if question.known_as:
            words += f"\nThe same key is known already as {', '.join(question.known_as)}."
        if question.stored_in:
            words += f"\nIt will be kept in {question.stored_in}."
        title = f"Trust {question.host}? Its key is not known here"
        trusted: bool | None = self._shown(Confirm(title, words, "Trust it"))
        return bool(trusted)

    def _shown(self, dialog: ModalScreen[Result]) -> Result | None:
        answered = threading.Event()
        answers: list[Result | None] = []

        def take(answer: Result | None) -> None:
            answers.append(answer)
            answered.set()

        if not self._ready.wait(PATIENCE):
            return None
        self._wait_until_nobody_types()
        if not self._do(lambda: self._app.push_screen(dialog, take)):
            return None
        deadline = time.monotonic() + PATIENCE
        # Whoever leaves the program meanwhile has answered too.
        while not answered.wait(0.2) and self._app.is_running:
            if time.monotonic() > deadline:
                self._do(lambda: self._take_back(dialog))
                break
        return answers[0] if answers else None

    def _wait_until_nobody_types(self) -> None:
        """A letter of a text must not trust a host, and a token that is being typed is no password for one."""
        deadline = time.monotonic() + PATIENCE
        before, text = None, self._text()
        while text not in (None, before) and time.monotonic() < deadline:
            _pause()
            before, text = text, self._text()

    def _text(self) -> tuple[Widget, str] | None:
        """The field with the cursor and its text, wherever somebody is."""
        try:
            return self._app.call_from_thread(lambda: typed_text(self._app.screen))
        except RuntimeError:
            # The app is on its way out: nobody types any more.
            return None

    def _do(self, act: Callable[[], object]) -> bool:
        """Whether the app took it: it may be on its way out."""
        try:
            self._app.call_from_thread(act)
        except RuntimeError:
            return False
        return True

    def _take_back(self, dialog: ModalScreen[Any]) -> None:
        if dialog is self._app.screen:
            dialog.dismiss(None)


def _pause() -> None:
    time.sleep(PAUSE)
