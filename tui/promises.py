"""What was asked for and comes to its end, though its screen, or the program, is left meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

from textual.app import App

from llama_tui.backend.errors import UserError
from llama_tui.tui.background import in_background

Result = TypeVar("Result")

# Seconds for which the end of the program waits: a scheduler that is down is asked for a while before it is given up.
PATIENCE = 120.0


class Promises:
    """Work whose result matters, whoever looks at it.

    Args:
        tell: tells the person, on any thread, what came of something whose screen is gone; true where it failed.
    """

    def __init__(self, tell: Callable[[str, bool], None]) -> None:
        self._tell = tell
        self._under_way: list[str] = []
        self._changed = threading.Condition()

    async def keep(self, words: str, work: Callable[[], Result]) -> Result:
        """Runs `work` on a thread and awaits its result; what it raises is raised here.

        Args:
            words: what it is, as in `launch of demo`.
        """
        left = threading.Event()
        with self._changed:
            self._under_way.append(words)
        try:
            return await in_background(lambda: self._kept(words, work, left))
        except asyncio.CancelledError:
            left.set()
            raise

    def _kept(self, words: str, work: Callable[[], Result], left: threading.Event) -> Result:
        try:
            result = work()
        except UserError as error:
            if left.is_set():
                self._tell(f"{words}: {error.message}. {error.hint}".rstrip(), True)
            raise
        finally:
            with self._changed:
                self._under_way.remove(words)
                self._changed.notify_all()
        if left.is_set():
            self._tell(f"Done: {words}.", False)
        return result

    def wait(self, tell: Callable[[str], None]) -> None:
        """Blocks until nothing is under way any more, PATIENCE seconds at most; tells what is waited for."""
        with self._changed:
            if not self._under_way:
                return
            tell(f"Waiting for: {', '.join(self._under_way)}. Ctrl+C does not wait.")
            if not self._changed.wait_for(lambda: not self._under_way, PATIENCE):
                tell(f"Not known to be done: {', '.join(self._under_way)}. `llama-tui status` tells more.")


class _HasPromises(Protocol):
    promises: Promises


def promises_of(app: App[Any]) -> Promises:
    """Those of the app that runs a screen."""
    return cast(_HasPromises, app).promises
