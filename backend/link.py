"""Our end of the agent's wire: requests out, answers and pushed events in."""

from __future__ import annotations

import itertools
import json
import shlex
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_tui.backend.agent import BEAT, GREETING, PROTOCOL
from llama_tui.backend.errors import AgentError, HostError, LinkLost
from llama_tui.backend.hosts.base import Channel, Host
from llama_tui.backend.wire import (
    Lines,
    Nonsense,
    checked_answer,
    checked_error,
    checked_event,
    checked_greeting,
    message_in,
)

AGENT_SOURCE = Path(__file__).with_name("agent.py")
GREETING_TIMEOUT = 30.0
DEAD_AFTER = 3 * BEAT
READ_LIMIT = 64 * 1024
NOISE_LIMIT = 256 * 1024
_BOOTSTRAP = "import sys;exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))"

Event = dict[str, Any]
OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Greeting:
    """Who and where the agent is; `time` is the host's clock in seconds since 1970."""

    user: str
    uid: int
    home: str
    host: str
    python: str
    pid: int
    time: float


@dataclass(frozen=True)
class CommandResult:
    """What a program on the host ended with."""

    exit: int
    stdout: str
    stderr: str


class Subscription:
    """A running `follow` or `watch`; `stop` ends it."""

    def __init__(self, link: Link, number: int) -> None:
        self._link = link
        self._number = number

    def rest(self, event: int) -> bool:
        """Of a watch: asks nothing more until a file changes; False when the event of this number is not the last."""
        return bool(self._link.call("rest", sub=self._number, number=event)["resting"])

    def wake(self) -> None:
        """Of a watch: asks again at once, whether it rests or not; the answer comes as an event."""
        self._link.call("wake", sub=self._number)

    def stop(self) -> None:
        """No event comes after this returns, but for one that is being delivered."""
        self._link.forget(self._number)


class Link:
    """One agent on one host. All methods may be called from any thread.

    Args:
        host: where to start the agent.
        python: the interpreter that starts it there.
        on_lost: called once, on the link's own thread, when the connection ends by itself. May be set later.

    Raises:
        HostError: the host cannot be reached, or no agent answers there.
    """

    def __init__(
        self, host: Host, python: str = "python3", on_lost: Callable[[LinkLost], None] | None = None
    ) -> None:
        self.host = host
        self.on_lost = on_lost
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[str, Future[Event]]] = {}
        self._subscribers: dict[int, tuple[str, OnEvent]] = {}
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._greeted: Future[Greeting] = Future()
        self._noise = b""
        self._closed = False
        self._lost: LinkLost | None = None
        self._heard = time.monotonic()
        self._channel = host.start(f"exec {shlex.quote(python)} -c {shlex.quote(_BOOTSTRAP)}")
        self._send_source(self._channel)
        threading.Thread(target=self._listen, name=f"agent on {host.name}", daemon=True).start()
        self.greeting = self._await_greeting(python)
        for task, name in ((self._beat, "heartbeat to"), (self._end_when_silent, "silence of")):
            threading.Thread(target=task, name=f"{name} {host.name}", daemon=True).start()

    def call(self, op: str, *, patience: float = 30.0, **arguments: Any) -> Event:
        """Asks the agent and waits for its answer.

        Args:
            op: an operation of the agent (see agent.py).
            patience: seconds to wait for the answer.

        Raises:
            AgentError: the agent refused.
            LinkLost: the connection ended; whether the request was carried out is not known.
        """
        number, answer = self._ask(op, arguments)
        try:
            return answer.result(patience)
        except FutureTimeout:
            self._waiting.pop(number, None)
            raise LinkLost(
                f"{self.host.name} gave no answer within {patience:.0f} s",
                "The jobs go on without us. Try again in a moment.",
            ) from None

    def run(
        self,
        argv: list[str],
        *,
        stdin: str | None = None,
        timeout: float = 30.0,
        env: dict[str, str] | None = None,
        clean: bool = False,
    ) -> CommandResult:
        """Runs a program on the host; a non-zero exit code is an answer, not an error.

        Args:
            timeout: seconds, after which its process group is killed.
            env: variables to add, or with `clean` all that it gets.
        """
        answer = self.call(
            "run", argv=argv, stdin=stdin, timeout=timeout, env=env, clean=clean, patience=timeout + 15
        )
        return CommandResult(answer["exit"], answer["stdout"], answer["stderr"])

    def read_text(self, path: str, limit: int = 4 * 1024 * 1024) -> str | None:
        """A file's text, up to `limit` bytes; None when there is no such file."""
        try:
            text: str = self.call("read", path=path, limit=limit)["text"]
        except AgentError as error:
            if error.kind == "missing":
                return None
            raise
        return text

    def write_text(self, path: str, text: str, mode: int = 0o600) -> None:
        """Replaces a file in one step, making its directories (0700)."""
        self.call("write", path=path, text=text, mode=mode, patience=60)

    def write_files(self, files: dict[str, str], mode: int = 0o600) -> None:
        """Replaces several files, {path: text}, without waiting for each in turn."""
        answers = [
            self._ask("write", {"path": path, "text": text, "mode": mode})[1] for path, text in files.items()
        ]
        for answer in answers:
            answer.result(60)

    def collect(self, paths: list[str]) -> dict[str, str]:
        """The texts, by path, of those files (and of the *.json in those directories) that are there."""
        files: dict[str, str] = self.call("collect", paths=paths)["files"]
        return files

    def follow(
        self, path: str, on_event: OnEvent, *, offset: int = 0, inode: int | None = None
    ) -> Subscription:
        """Calls `on_event` on the link's thread with each piece appended to a file from `offset` (bytes) on.

        The event's keys: text, start, offset (bytes after it), inode, size, reset (the file began anew).
        """
        return self._subscribe("follow", on_event, path=path, offset=offset, inode=inode)

    def watch(
        self, paths: list[str], on_event: OnEvent, *, argv: list[str] | None = None, interval: float = 5.0
    ) -> Subscription:
        """Calls `on_event` when files change, or when what `argv` prints (asked every `interval` s) does.

        Args:
            paths: files, or directories whose *.json files are watched.
        """
        return self._subscribe("watch", on_event, paths=paths, argv=argv, interval=interval)

    def forget(self, number: int) -> None:
        """Ends a subscription."""
        self._subscribers.pop(number, None)
        if self._lost is None and not self._closed:
            self._ask("stop", {"sub": number})

    def close(self) -> None:
        """Ends the agent. Jobs are not touched."""
        self._closed = True
        self._fail(LinkLost("The connection was closed"))
        self._channel.close()

    @property
    def alive(self) -> bool:
        """Whether the agent is there as far as is known."""
        return self._lost is None and not self._closed

    def _subscribe(self, op: str, on_event: OnEvent, **arguments: Any) -> Subscription:
        number, answer = self._ask(op, arguments, on_event)
        answer.result(30.0)
        return Subscription(self, number)

    def _ask(self, op: str, arguments: Event, on_event: OnEvent | None = None) -> tuple[int, Future[Event]]:
        number, answer = next(self._numbers), Future[Event]()
        with self._lock:
            if self._lost is not None:
                raise LinkLost(self._lost.message, self._lost.hint)
            self._waiting[number] = (op, answer)
            if on_event is not None:
                self._subscribers[number] = (op, on_event)
        self._send({"id": number, "op": op, **arguments})
        return number, answer

    def _send(self, message: Event) -> None:
        data = json.dumps(message).encode("ascii") + b"\n"
        try:
            with self._write_lock:
                self._channel.write(data)
        except (OSError, ValueError):
            self._end(self._words("The connection broke"))

    def _send_source(self, channel: Channel) -> None:
        source = AGENT_SOURCE.read_bytes()
        try:
            channel.write(b"%d\n%s" % (len(source), source))
        except OSError:
            # The reader finds the end, with what was said on stderr, and tells it better.
            return

    def _await_greeting(self, python: str) -> Greeting:
        try:
            return self._greeted.result(GREETING_TIMEOUT)
        except FutureTimeout:
            said = self._said()
            self.close()
            raise HostError(
                f"{self.host.name} let us in, but {python} did not answer there within {GREETING_TIMEOUT:.0f} s"
                + said,
                "Log in by hand and try that command; is its home directory or start-up file hanging?",
            ) from None
        except LinkLost as lost:
            self._channel.close()
            if lost.message.startswith(f"{self.host.name} sent"):
                raise HostError(lost.message, lost.hint) from None
            raise HostError(
                f"Could not start our agent with {python!r} on {self.host.name}{self._said()}",
                lost.hint or "Name a Python 3.8 or newer that is there (where.python in the settings).",
            ) from None

    def _said(self) -> str:
        noise = self._noise.decode("utf-8", "replace").strip()[-600:]
        said = "\n".join(part for part in (noise, self._channel.errors()[-600:]) if part)
        return f". It said:\n{said}" if said else ""

    def _listen(self) -> None:
        lines = Lines()
        while True:
            try:
                data = self._channel.read(READ_LIMIT)
            except (OSError, ValueError):
                data = b""
            if not data:
                self._end(self._words("The connection ended"))
                return
            self._heard = time.monotonic()
            try:
                for line in lines.feed(data):
                    self._take(line)
            except Nonsense as nonsense:
                self._end(
                    LinkLost(
                        f"{self.host.name} sent what our agent never sends: {nonsense}",
                        "Is something else behind its Python or its login shell? Try again, and look there if it stays.",
                    )
                )
                self._channel.close()
                return

    def _take(self, line: bytes) -> None:
        if not self._greeted.done():
            self._take_greeting(line)
            return
        message = message_in(line)
        if message is None:
            return
        if "id" in message:
            self._resolve(message)
        elif "sub" in message and message["sub"] in self._subscribers:
            op, subscriber = self._subscribers[message["sub"]]
            subscriber(checked_event(op, message.get("event")))

    def _take_greeting(self, line: bytes) -> None:
        """Skips what a login shell prints before the agent speaks."""
        if not line.startswith(b'{"' + GREETING.encode()):
            if line != b'{"":""}' and len(self._noise) < NOISE_LIMIT:
                self._noise += line[:NOISE_LIMIT] + b"\n"
            return
        fields = checked_greeting((message_in(line) or {}).get(GREETING))
        if fields["protocol"] != PROTOCOL:
            raise Nonsense("a greeting in another protocol than ours")
        self._greeted.set_result(Greeting(**{name: fields[name] for name in Greeting.__dataclass_fields__}))

    def _resolve(self, message: Event) -> None:
        if message["id"] not in self._waiting:
            return
        op, answer = self._waiting[message["id"]]
        # Checked while it waits: whoever asked is told when the link ends over it.
        ok = checked_answer(op, message["ok"]) if "ok" in message else None
        error = checked_error(message.get("error")) if ok is None else {}
        self._waiting.pop(message["id"], None)
        if answer.done():
            return
        if ok is not None:
            answer.set_result(ok)
            return
        answer.set_exception(AgentError(error["message"], error["kind"], _HINTS.get(error["kind"], "")))

    def _beat(self) -> None:
        asked = time.monotonic()
        while self.alive:
            time.sleep(BEAT / 5)
            if time.monotonic() - asked >= BEAT:
                asked = time.monotonic()
                self._send({"id": 0, "op": "ping"})

    def _end_when_silent(self) -> None:
        """On a thread of its own, since a big write to a dead connection holds up the heartbeat."""
        while self.alive:
            time.sleep(BEAT / 5)
            silence = time.monotonic() - self._heard
            if silence > DEAD_AFTER:
                self._end(LinkLost(f"{self.host.name} has been silent for {silence:.0f} s"))
                self._channel.close()

    def _words(self, what: str) -> LinkLost:
        said = self._channel.errors()[-600:]
        return LinkLost(f"{what}: {self.host.name}" + (f" said: {said}" if said else ""))

    def _end(self, lost: LinkLost) -> None:
        in_use = self._greeted.done() and self._greeted.exception() is None
        if self._fail(lost) and in_use and not self._closed and self.on_lost is not None:
            self.on_lost(lost)

    def _fail(self, lost: LinkLost) -> bool:
        with self._lock:
            if self._lost is not None:
                return False
            self._lost = lost
            waiting, self._waiting = self._waiting, {}
        if not self._greeted.done():
            self._greeted.set_exception(lost)
        for _, answer in waiting.values():
            answer.set_exception(LinkLost(lost.message, lost.hint))
        return True


_HINTS = {
    "denied": "Choose a place that you may write to, or ask its owner.",
    "full": "Free some space, or choose another file system for the workspace.",
    "locked": "Wait a moment and try again.",
}
