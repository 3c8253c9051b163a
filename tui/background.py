"""Blocking work off the UI thread, on threads that never keep the program from ending."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from textual.app import App

Result = TypeVar("Result")


async def in_background(work: Callable[[], Result]) -> Result:
    """Runs `work` on a daemon thread and awaits its result; what it raises is raised here."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Result] = loop.create_future()

    def deliver(act: Callable[[], None]) -> None:
        try:
            loop.call_soon_threadsafe(lambda: None if answer.done() else act())
        except RuntimeError:
            # The app has ended meanwhile; nobody waits any more.
            return

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            failure = error
            deliver(lambda: answer.set_exception(failure))
        else:
            deliver(lambda: answer.set_result(result))

    threading.Thread(target=run, name="background", daemon=True).start()
    return await answer


def from_thread(app: App[Any], act: Callable[[], object]) -> None:
    """Has the app do something; where it has ended meanwhile, nothing is done. Never blocks."""
    with contextlib.suppress(RuntimeError):
        app.call_later(act)
