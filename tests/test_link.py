"""The agent and our end of its wire, for real: a process on this machine."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_tui.backend.errors import AgentError, HostError, LinkLost
from llama_tui.backend.hosts.base import Channel
from llama_tui.backend.hosts.local import LocalHost
from llama_tui.backend.link import Link


@pytest.fixture
def link() -> Iterator[Link]:
    opened = Link(LocalHost())
    yield opened
    opened.close()


class NoisyHost(LocalHost):
    """A login shell that prints before, and right in front of, what it was asked to start."""

    def start(self, command: str) -> Channel:
        return super().start(f"echo 'Welcome to the cluster'; printf 'no line break'; {command}")


def text_of(events: queue.Queue[dict[str, Any]], length: int) -> str:
    text = ""
    while len(text) < length:
        text += events.get(timeout=30)["text"]
    return text


def told(events: queue.Queue[dict[str, Any]], what: str) -> Any:
    """What the next event says of the files or the queue; that the queue is as it was is no news."""
    while True:
        event = events.get(timeout=30)
        if what in event:
            return event[what]


def put(path: Path, text: str) -> None:
    """Writes a file that nobody sees half."""
    draft = path.parent.with_name("draft")
    draft.write_text(text)
    draft.replace(path)


def test_noise_before_the_greeting_is_skipped() -> None:
    noisy = Link(NoisyHost())
    assert noisy.greeting.pid > 0
    noisy.close()


def test_a_python_that_is_not_there_is_told_in_words() -> None:
    with pytest.raises(HostError) as caught:
        Link(LocalHost(), "/no/such/python")
    assert "/no/such/python" in caught.value.message
    assert "where.python" in caught.value.hint


def test_files_survive_unchanged(link: Link, tmp_path: Path) -> None:
    text = "é\n\x00" + b"\xff\xfe".decode("utf-8", "surrogateescape") + "🏴"
    path = tmp_path / "new folder" / "it's"
    link.write_text(str(path), text)
    assert path.read_bytes().decode("utf-8", "surrogateescape") == text
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert link.read_text(str(path)) == text
    assert link.read_text(str(tmp_path / "absent")) is None


def test_arguments_reach_a_program_as_they_are(link: Link) -> None:
    odd = ["$(id)", "a b", "'", '"', "\n", "é", ""]
    answer = link.run(["printf", "%s|", *odd])
    assert answer.stdout == "".join(f"{word}|" for word in odd)


def test_a_program_that_hangs_is_ended_with_its_children(link: Link, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(AgentError) as caught:
        link.run(["sh", "-c", f"sleep 300 & echo $! > {pid_file}; wait"], timeout=3)
    assert caught.value.kind == "timeout"
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid_file.read_text().strip()}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    stat = Path(f"/proc/{pid_file.read_text().strip()}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"


def test_tokens_in_the_environment_reach_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    opened = Link(LocalHost())
    assert "hf_secret" not in opened.run(["env"]).stdout
    opened.close()


def test_a_file_is_followed_from_an_offset(link: Link, tmp_path: Path) -> None:
    path, events = tmp_path / "log", queue.Queue[dict[str, Any]]()
    path.write_text("old\n")
    subscription = link.follow(str(path), events.put, offset=4)
    with path.open("a") as log:
        for number in range(100):
            log.write(f"line {number}\n")
            log.flush()
    wanted = "".join(f"line {number}\n" for number in range(100))
    assert text_of(events, len(wanted)) == wanted
    subscription.stop()


def test_a_file_that_begins_anew_is_followed_from_its_start(link: Link, tmp_path: Path) -> None:
    path, events = tmp_path / "log", queue.Queue[dict[str, Any]]()
    path.write_text("first")
    link.follow(str(path), events.put)
    assert text_of(events, 5) == "first"
    fresh = tmp_path / "fresh"
    fresh.write_text("second")
    fresh.replace(path)
    event = events.get(timeout=30)
    assert event["reset"]
    assert event["text"] + ("" if event["text"] else text_of(events, 6)) == "second"


def test_a_watch_tells_changes_of_files_and_of_the_queue(link: Link, tmp_path: Path) -> None:
    folder, events = tmp_path / "status", queue.Queue[dict[str, Any]]()
    folder.mkdir()
    answer = tmp_path / "queue"
    put(answer, "one")
    link.watch([str(folder)], events.put, argv=["cat", str(answer)], interval=0.2)
    assert told(events, "queue")["stdout"] == "one"
    put(folder / "a.json", "{}")
    assert told(events, "files") == {str(folder / "a.json"): "{}"}
    put(answer, "two")
    assert told(events, "queue")["stdout"] == "two"
    (folder / "a.json").unlink()
    assert told(events, "files") == {str(folder / "a.json"): None}


def test_one_holds_the_lock_the_other_waits(link: Link, tmp_path: Path) -> None:
    path = str(tmp_path / ".lock")
    other = Link(LocalHost())
    link.call("lock", path=path, timeout=1)
    with pytest.raises(AgentError) as caught:
        other.call("lock", path=path, timeout=0.3)
    assert caught.value.kind == "locked"
    link.call("unlock", path=path)
    other.call("lock", path=path, timeout=5)
    other.close()


def test_a_lock_goes_with_its_holder(link: Link, tmp_path: Path) -> None:
    path = str(tmp_path / ".lock")
    other = Link(LocalHost())
    other.call("lock", path=path, timeout=1)
    os.kill(other.greeting.pid, signal.SIGKILL)
    link.call("lock", path=path, timeout=5)


def test_an_agent_that_dies_is_told_once_and_every_waiter_learns_it() -> None:
    lost, told = threading.Event(), list[LinkLost]()

    def on_lost(error: LinkLost) -> None:
        told.append(error)
        lost.set()

    opened = Link(LocalHost(), on_lost=on_lost)
    os.kill(opened.greeting.pid, signal.SIGKILL)
    assert lost.wait(10)
    assert not opened.alive
    with pytest.raises(LinkLost):
        opened.call("ping")
    assert len(told) == 1


def test_an_agent_without_its_caller_ends() -> None:
    opened = Link(LocalHost())
    pid = opened.greeting.pid
    opened._channel._process.stdin.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the agent outlived its caller")
    opened.close()


def test_nonsense_from_us_does_not_end_the_agent(link: Link) -> None:
    with pytest.raises(AgentError) as caught:
        link.call("no_such_operation")
    assert caught.value.kind == "bad_request"
    with pytest.raises(AgentError):
        link.call("read")
    assert link.call("ping") == {}
