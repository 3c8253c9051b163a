"""The agent's watch of a run: how often it asks the scheduler, when it rests, and what wakes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_tui.backend import agent
from llama_tui.backend.agent import Watcher

INTERVAL = 2.0


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stopped = Clock()
    monkeypatch.setattr(agent.time, "monotonic", lambda: stopped.now)
    return stopped


class Watched:
    """A watcher of one file and of a scheduler that says what it is told to, with a list of what was told."""

    def __init__(self, clock: Clock, folder: Path) -> None:
        self.clock = clock
        self.file = folder / "submitted.jsonl"
        self.file.write_text("begun\n")
        self.answer = "no jobs"
        self.asked: list[float] = []
        self.during: Callable[[], object] = lambda: None
        self.told: list[dict[str, Any]] = []
        self.watcher = Watcher(["squeue"], [str(self.file)], INTERVAL)
        self.watcher._ask = self._ask  # type: ignore[method-assign]

    def _ask(self) -> dict[str, Any]:
        self.asked.append(self.clock.now)
        answer = {"exit": 0, "stdout": self.answer, "stderr": ""}
        self.during()
        return answer

    def go_on(self, seconds: float) -> None:
        """As the agent does it, twice a second."""
        for _ in range(round(seconds * 2)):
            event = self.watcher.step()
            if event is not None:
                self.told.append(event)
            self.clock.now += 0.5

    def submit(self) -> None:
        with self.file.open("a") as file:
            file.write("submitted\n")

    @property
    def last(self) -> int:
        return int(self.told[-1]["number"])


@pytest.fixture
def watched(clock: Clock, tmp_path: Path) -> Iterator[Watched]:
    yield Watched(clock, tmp_path)


def test_what_files_say_is_followed_by_an_answer_even_if_that_is_not_new(watched: Watched) -> None:
    watched.go_on(2)
    assert [sorted(event) for event in watched.told] == [
        ["asked", "files", "number", "queue"],
        ["asked", "number"],
    ]
    watched.submit()
    watched.go_on(20)
    assert [sorted(event) for event in watched.told[2:]] == [["files", "number"], ["asked", "number"]]
    assert [event["number"] for event in watched.told] == [1, 2, 3, 4]


def test_at_rest_nothing_is_asked_until_a_file_changes(watched: Watched) -> None:
    watched.go_on(2)
    assert watched.watcher.rest(watched.last)
    asked = len(watched.asked)
    watched.go_on(3600)
    assert len(watched.asked) == asked
    watched.submit()
    watched.go_on(1.5)
    assert len(watched.asked) == asked + 1, "at once"
    watched.go_on(60)
    assert len(watched.asked) > asked + 5, "and again and again"


def test_a_submission_that_is_not_yet_known_keeps_it_awake(watched: Watched) -> None:
    watched.go_on(2)
    known = watched.last
    watched.submit()
    watched.go_on(0.5)
    assert not watched.watcher.rest(known)
    assert not watched.watcher.rest(watched.last), "the answer that follows it is not there yet"
    watched.go_on(60)
    assert watched.told[-1]["number"] == known + 2
    assert watched.watcher.rest(watched.last)


def test_a_submission_that_nobody_has_seen_yet_wakes_it(watched: Watched) -> None:
    watched.go_on(2)
    watched.submit()
    assert watched.watcher.rest(watched.last)
    asked = len(watched.asked)
    watched.go_on(1.5)
    assert len(watched.asked) == asked + 1


def test_news_that_are_under_way_when_it_is_told_to_rest_wake_it(watched: Watched) -> None:
    watched.go_on(2)

    def rest_while_asked() -> None:
        assert watched.watcher.rest(watched.last)
        watched.during = lambda: None

    watched.answer, watched.during = "a job is back in the queue", rest_while_asked
    watched.go_on(60)
    assert watched.told[-1]["queue"]["stdout"] == "a job is back in the queue"
    asked = len(watched.asked)
    watched.go_on(60)
    assert len(watched.asked) > asked


def test_a_person_is_answered_at_once_also_at_rest(watched: Watched) -> None:
    watched.go_on(2)
    assert watched.watcher.rest(watched.last)
    told, asked = len(watched.told), len(watched.asked)
    watched.watcher.wake()
    watched.go_on(0.5)
    assert (len(watched.told), len(watched.asked)) == (told + 1, asked + 1)
    assert "asked" in watched.told[-1]
    assert watched.watcher.rest(watched.last)


def test_who_asks_during_an_answer_gets_a_later_one(watched: Watched) -> None:
    watched.go_on(60)
    told = len(watched.told)

    def wake_while_asked() -> None:
        watched.during = lambda: None
        watched.watcher.wake()

    watched.during = wake_while_asked
    watched.go_on(9)
    assert len(watched.told) == told + 1
    assert watched.asked[-1] - watched.asked[-2] == 0.5


def test_a_queue_that_changes_all_the_time_is_asked_twelve_times_a_minute_at_most(watched: Watched) -> None:
    def another_answer() -> None:
        watched.answer += "."

    watched.during = another_answer
    began = watched.clock.now
    watched.go_on(600)
    for start in range(540):
        window = [at for at in watched.asked if began + start <= at < began + start + 60]
        assert len(window) <= 12
    assert len([at for at in watched.asked if at < began + 5]) == 3, "when something happens it is quick"


def test_what_changes_seldom_is_noticed_soon(watched: Watched) -> None:
    watched.go_on(120)
    assert watched.asked[-1] - watched.asked[-2] == 4 * INTERVAL
    watched.submit()
    at = watched.clock.now
    watched.go_on(10)
    assert min(asked - at for asked in watched.asked if asked >= at) <= 0.5


def test_files_are_watched_where_there_is_no_scheduler(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    watcher = Watcher(None, [str(tmp_path)], INTERVAL)
    assert watcher.step() is None
    file.write_text("{}")
    assert watcher.step() == {"files": {str(file): "{}"}, "number": 1}
