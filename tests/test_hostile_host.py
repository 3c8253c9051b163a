"""A host that answers with anything at all, and logs that hold anything at all."""

from __future__ import annotations

import json
import os
import pty
import queue
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_tui.backend import link as link_module
from llama_tui.backend import wire
from llama_tui.backend.agent import GREETING, PROTOCOL
from llama_tui.backend.errors import AgentError, HostError, LinkLost
from llama_tui.backend.hosts.base import Channel
from llama_tui.backend.hosts.local import LocalHost
from llama_tui.backend.link import Link
from llama_tui.backend.live import LinkChanged, LiveEvent, LiveRun, LogRead, SnapshotTaken
from llama_tui.backend.place import Place, SchedulerChoice
from llama_tui.backend.site import Site, connect
from llama_tui.backend.stages import Stage
from llama_tui.backend.ui_request import UiRequest
from llama_tui.tui.app import LlamaTui
from llama_tui.tui.screens.monitor import MonitorScreen
from llama_tui.tui.widgets.log_view import LogView
from tests.pilot import until
from tests.tiny import tiny_run, wait_for

TUNE = Stage.FINETUNE
PROGRAM = Path(sys.executable).with_name("llama-tui")
DEEP = "[" * 100_000
GREETED: dict[str, Any] = {
    "protocol": PROTOCOL,
    "user": "u",
    "uid": 1,
    "home": "/",
    "host": "h",
    "python": "3.8",
    "pid": 1,
    "time": 1.0,
}
_LIAR = """
import json, sys, time
sys.stdin.buffer.read(int(sys.stdin.buffer.readline()))
def say(text):
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()
first, answer = json.loads(sys.argv[1])
say(first)
for line in sys.stdin.buffer:
    request = json.loads(line)
    if request["op"] != "ping":
        say(answer.replace("NUMBER", str(request["id"])))
"""


class Liar(LocalHost):
    """A host whose Python says what it is told to: first of all, and to each request."""

    def __init__(self, first: str = "", answer: str = "", program: str = _LIAR) -> None:
        self._argv = [sys.executable, "-c", program, json.dumps([first, answer])]

    def start(self, command: str) -> Channel:
        del command
        return super().start(f"exec {shlex.join(self._argv)}")


def greeting(**changes: object) -> str:
    return json.dumps({GREETING: {**GREETED, **changes}}) + "\n"


@pytest.mark.parametrize(
    "first",
    [
        f'{{"{GREETING}": 5}}\n',
        f'{{"{GREETING}": {DEEP}\n',
        f'{{"{GREETING}": {{}}}}\n',
        f'{{"{GREETING}" nonsense\n',
        greeting(time="now"),
        greeting(time=float("nan")),
        greeting(time=float("inf")),
        greeting(uid=1 << 70),
        greeting(home=None),
        greeting(protocol=PROTOCOL + 1),
        greeting(protocol="1"),
    ],
    ids=range(11),
)
def test_a_greeting_that_is_none_is_told_in_words(first: str) -> None:
    with pytest.raises(HostError) as caught:
        Link(Liar(first))
    assert "sent what our agent never sends" in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    "noise", ["", "Welcome\n" * 10_000, "\x1b]0;owned\x07\x1b[2Jhello\n"], ids=["silent", "loud", "acting"]
)
def test_a_host_that_never_greets_is_given_up(noise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "GREETING_TIMEOUT", 1.5)
    with pytest.raises(HostError) as caught:
        Link(Liar(noise))
    assert "did not answer" in caught.value.message
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("greets", [False, True])
def test_a_line_without_an_end_does_not_fill_the_memory(
    greets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "LINE_LIMIT", 1 << 20)
    endless = _LIAR + "\nwhile True:\n    say('x' * 65536)\n"
    flood = endless.replace("for line in sys.stdin.buffer:", "for line in ():")
    lost: queue.Queue[LinkLost] = queue.Queue()
    if not greets:
        with pytest.raises(HostError, match="a line of more than"):
            Link(Liar(program=flood))
        return
    link = Link(Liar(greeting(), program=flood), on_lost=lost.put)
    assert "a line of more than 1 MiB" in lost.get(timeout=60).message
    assert not link.alive


def test_a_second_greeting_changes_nothing() -> None:
    link = Link(Liar(greeting() + greeting(user="another"), '{"id": NUMBER, "ok": {"files": {}}}\n'))
    assert link.collect(["/x"]) == {}
    assert link.greeting.user == "u"
    link.close()


@pytest.mark.parametrize(
    "answer",
    [
        '{"id": NUMBER, "ok": 5}\n',
        '{"id": NUMBER, "ok": {}}\n',
        '{"id": NUMBER, "ok": {"text": 5, "start": 0, "size": 1, "inode": 1, "mtime": 0}}\n',
        '{"id": NUMBER, "ok": {"text": "", "start": 0, "size": 1e999, "inode": 1, "mtime": 0}}\n',
        '{"id": NUMBER, "ok": {"text": "", "start": 0, "size": 1, "inode": 1, "mtime": NaN}}\n',
        '{"id": NUMBER}\n',
        '{"id": NUMBER, "error": "no"}\n',
        '{"id": NUMBER, "error": {"kind": ["missing"], "message": "x"}}\n',
        '{"id": [NUMBER], "ok": {}}\n',
        '{"id": {}, "ok": {}}\n',
        '{"sub": "x", "event": {}}\n',
        '{"id": NUMBER, "ok": ' + DEEP + "\n",
        "[1, 2]\n",
        "7\n",
        '"id"\n',
    ],
    ids=range(15),
)
def test_an_answer_of_another_shape_ends_the_link_with_words(answer: str) -> None:
    lost: queue.Queue[LinkLost] = queue.Queue()
    link = Link(Liar(greeting(), answer), on_lost=lost.put)
    with pytest.raises(LinkLost) as caught:
        link.read_text("/x")
    assert "sent what our agent never sends" in caught.value.message
    assert lost.get(timeout=60).message == caught.value.message
    assert not link.alive


def test_what_is_no_json_is_passed_over() -> None:
    noise = "\x00\xff garbage\n{\n" + "9" * 10_000 + "\n\n"
    link = Link(Liar(greeting(), noise + '{"id": 99999, "ok": {}}\n{"id": NUMBER, "ok": {"files": {}}}\n'))
    assert link.collect(["/x"]) == {}
    link.close()


def test_a_refusal_cannot_steer_the_terminal() -> None:
    words = json.dumps({"kind": "os", "message": "no\x1b]52;c;ZXZpbA==\x07\x1b[2J\u202e way"})
    link = Link(Liar(greeting(), f'{{"id": NUMBER, "error": {words}}}\n'))
    with pytest.raises(AgentError) as caught:
        link.read_text("/x")
    assert caught.value.message == str(caught.value) == "no way"
    link.close()


@pytest.mark.parametrize(
    "event",
    [5, {}, {"text": "x"}, {"text": "", "start": 0, "offset": "9", "inode": 1, "size": 1, "reset": False}],
)
def test_a_pushed_piece_of_another_shape_reaches_nobody(event: object) -> None:
    got: list[object] = []
    lost: queue.Queue[LinkLost] = queue.Queue()
    said = '{"id": NUMBER, "ok": {}}\n{"sub": NUMBER, "event": ' + json.dumps(event) + "}\n"
    link = Link(Liar(greeting(), said), on_lost=lost.put)
    link.follow("/x", got.append)
    assert "a piece of a file" in lost.get(timeout=60).message
    assert got == []


@pytest.mark.parametrize(
    "event",
    [
        {"files": ["x"]},
        {"files": {"a": 1}},
        {"queue": {"exit": 0, "stdout": None, "stderr": ""}},
        {"queue": "RUNNING"},
        {"asked": "soon"},
        {"asked": float("inf")},
    ],
)
def test_a_pushed_change_of_another_shape_is_nonsense(event: dict[str, object]) -> None:
    with pytest.raises(wire.Nonsense):
        wire.checked_event("watch", event)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)
_KEYS = st.sampled_from(["id", "sub", "ok", "error", "event", "beat"])


@pytest.fixture(scope="module")
def honest() -> Iterator[Link]:
    opened = Link(LocalHost())
    yield opened
    opened.close()


@settings(max_examples=300, deadline=None)
@given(message=st.dictionaries(_KEYS, JSON | st.just(1 << 40), max_size=4) | JSON)
def test_any_message_is_taken_or_is_nonsense(message: object, honest: Link) -> None:
    honest._subscribers[1 << 40] = ("watch", lambda _: None)
    honest._waiting[1 << 40] = ("collect", link_module.Future())
    try:
        honest._take(json.dumps(message).encode())
    except wire.Nonsense as nonsense:
        assert len(str(nonsense)) < 200
    assert honest.alive


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_lines_are_the_same_however_they_come_in_pieces(pieces: list[bytes]) -> None:
    lines = wire.Lines()
    found = [line for piece in pieces for line in lines.feed(piece)]
    assert found == b"".join(pieces).split(b"\n")[:-1]


def test_a_long_line_takes_time_that_grows_with_its_length() -> None:
    lines, began = wire.Lines(), time.thread_time()
    for _ in range(900):
        assert lines.feed(b"x" * 65536) == []
    assert len(lines.feed(b"\n")[0]) == 900 * 65536
    assert time.thread_time() - began < 10


# --- logs

MARKUP = "[bold]bold[/bold] [@click=app.quit]quit[/] [@click=app.bell()]ring[/] [red"
HOSTILE_LOG = (
    b"begin\n"
    + b"\x1b[2J\x1b[H\x1b]0;owned\x07\x1b]52;c;cm0gLXJm\x07\x1bP+q544e\x1b\\\x1b[6n\x9b2Jseen\n"
    + b"nul\x00\x00 invalid \xff\xfe\xc3( surrogate \xed\xa0\x80 end\n"
    + "bidi \u202egnp.exe\u2066 \u061c mark\n".encode()
    + MARKUP.encode()
    + b"\n"
    + b"x" * 10_000_000
    + b"\n"
    + b"\x1b]8;;http://evil\x07link\x1b]8;;\x07 \x1b[31mred\x1b[0m last\n"
)
_ACTS = re.compile(r"\x1b(?!\[[0-9;:]*m)|[\x00-\x08\x0e-\x1a\x7f-\x9f\u061c\u202e\u2066]")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    opened = connect(Place(str(tmp_path / "w"), scheduler=SchedulerChoice.DIRECT))
    yield opened
    opened.close()


@pytest.mark.parametrize(
    "log", [HOSTILE_LOG, HOSTILE_LOG.replace(b"x" * 10_000_000, b"short")], ids=["long line", "short lines"]
)
async def test_the_monitor_shows_a_hostile_log_as_text(site: Site, tmp_path: Path, log: bytes) -> None:
    run = tiny_run(site, tmp_path / "w", finetune="3")
    run.submit()
    wait_for(run, lambda one: one.finished)
    Path(run.layout.log(TUNE, 1)).write_bytes(log)
    app = LlamaTui(UiRequest(place=site.place, run_id=run.run_id))
    async with app.run_test(size=(120, 45)) as pilot:
        view = app.screen.query_one(LogView)
        await until(pilot, lambda: "red last" in "\n".join(rows_of(view)), "the log's end")
        view.focus()
        await pilot.press("home")
        await until(pilot, lambda: MARKUP in "\n".join(rows_of(view)), "markup, as text")
        rows = rows_of(view)
        assert not any(map(_ACTS.search, rows))
        at = next(number for number, row in enumerate(rows) if MARKUP in row)
        for column in range(0, 70, 3):
            await pilot.click(LogView, offset=(column, at))
        await pilot.press("slash", *"click=app", "enter", "w", "e", "y")
        await until(pilot, lambda: app.clipboard != "", "what y copies")
        assert app.is_running
        assert isinstance(app.screen, MonitorScreen)


def rows_of(view: LogView) -> list[str]:
    """What the log's widget puts on the screen."""
    return [view.render_line(row).text for row in range(view.scrollable_content_region.height)]


def test_a_live_run_hands_over_a_hostile_log_in_bounded_pieces(site: Site, tmp_path: Path) -> None:
    run = tiny_run(site, tmp_path / "w")
    log = Path(run.layout.log(TUNE, 1))
    log.write_bytes(HOSTILE_LOG)
    Path(run.layout.file("metrics.jsonl")).write_bytes(
        b'{"step": 1e999}\n' + DEEP.encode() + b"\xff\x00\n[]\n"
    )
    events: queue.Queue[LiveEvent] = queue.Queue()
    live = LiveRun(site.place, run.run_id, events.put)
    live.follow_log(str(log))
    live.start()
    text, snapshots, longest = "", 0, 0
    while not (text.endswith("last\n") and snapshots):
        event = events.get(timeout=60)
        assert not (isinstance(event, LinkChanged) and not event.connected), event
        snapshots += isinstance(event, SnapshotTaken)
        if isinstance(event, LogRead):
            text, longest = text + event.text, max(longest, len(event.text))
    live.close()
    assert longest <= 64 * 1024


def test_logs_in_a_terminal_spare_it_what_acts(site: Site, tmp_path: Path) -> None:
    run = tiny_run(site, tmp_path / "w", create_env="3")
    run.submit()
    wait_for(run, lambda one: one.finished)
    Path(run.layout.log(Stage.CREATE_ENV, 1)).write_bytes(HOSTILE_LOG)
    ours, theirs = pty.openpty()
    argv = [str(PROGRAM), "logs", "--all", "--workspace", str(tmp_path / "w"), "--scheduler", "direct"]
    process = subprocess.Popen(argv, stdout=theirs, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    os.close(theirs)
    said: list[bytes] = []
    reader = threading.Thread(target=read_all, args=(ours, said), daemon=True)
    reader.start()
    assert process.wait(60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""
    reader.join(10)
    shown = b"".join(said).decode("utf-8", "replace")
    assert MARKUP in shown
    assert "red\x1b[0m last" in shown
    assert _ACTS.search(shown) is None
    process.stderr.close()


def read_all(handle: int, into: list[bytes]) -> None:
    """Until the other end of the terminal is closed."""
    while True:
        try:
            data = os.read(handle, 1 << 16)
        except OSError:
            data = b""
        if not data:
            os.close(handle)
            return
        into.append(data)
