"""What was asked for comes to its end, and the end of the program waits for it."""

from __future__ import annotations

import asyncio
from threading import Event, Thread

import pytest

from llama_tui.backend.errors import RunError
from llama_tui.tui import promises
from llama_tui.tui.promises import Promises


class Person:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []
        self.heard = Event()

    def tell(self, words: str, failed: bool) -> None:
        self.told.append((words, failed))
        self.heard.set()


async def test_the_result_is_for_who_waits_for_it() -> None:
    person = Person()
    assert await Promises(person.tell).keep("launch of demo", lambda: 7) == 7
    assert person.told == []


async def left_behind(kept: Promises, gate: Event, error: RunError | None = None) -> None:
    """Begins something that waits at the gate, and leaves it."""
    begun = Event()

    def work() -> None:
        begun.set()
        assert gate.wait(60)
        if error is not None:
            raise error

    task = asyncio.create_task(kept.keep("launch of demo", work))
    await asyncio.to_thread(begun.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (None, "Done: launch of demo."),
        (RunError("The disk is full", "Make room."), "launch of demo: The disk is full. Make room."),
    ],
)
async def test_who_has_left_is_told_what_came_of_it(error: RunError | None, words: str) -> None:
    person, gate = Person(), Event()
    await left_behind(Promises(person.tell), gate, error)
    gate.set()
    assert await asyncio.to_thread(person.heard.wait, 60)
    assert person.told == [(words, error is not None)]


async def test_the_end_of_the_program_waits_for_it() -> None:
    kept, gate = Promises(Person().tell), Event()
    await left_behind(kept, gate)
    told: list[str] = []
    waiting = Thread(target=kept.wait, args=(told.append,))
    waiting.start()
    while not told:
        await asyncio.sleep(0.01)
    assert told == ["Waiting for: launch of demo. Ctrl+C does not wait."]
    assert waiting.is_alive()
    gate.set()
    await asyncio.to_thread(waiting.join, 60)
    assert len(told) == 1


async def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promises, "PATIENCE", 0.01)
    kept, gate = Promises(Person().tell), Event()
    await left_behind(kept, gate)
    told: list[str] = []
    kept.wait(told.append)
    gate.set()
    assert told[-1] == "Not known to be done: launch of demo. `llama-tui status` tells more."


def test_where_nothing_is_under_way_nothing_is_said() -> None:
    Promises(Person().tell).wait(pytest.fail)
