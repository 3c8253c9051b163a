"""The one small program that llama-tui starts on the host and talks to.

It is sent over the wire, so it is one file, needs nothing but Python 3.8, and writes nothing by itself.
Requests and answers are JSON, one to a line:

    -> {"id": 7, "op": "read", "path": "/fsx/x", "offset": 0, "limit": 65536}
    <- {"id": 7, "ok": {"text": "...", "size": 12, "inode": 99}}
    <- {"id": 7, "error": {"kind": "missing", "message": "..."}}
    <- {"sub": 3, "event": {...}}        pushed by a `follow` or a `watch`
    <- {"beat": 1700000000.0}            when there was nothing else to say for BEAT seconds

Bytes that are not UTF-8 travel as lone surrogates (PEP 383), so file contents survive unchanged. The agent
ends when its stdin closes, or when it heard nothing for SILENCE seconds: it never outlives its caller.
"""

from __future__ import annotations

import errno
import fcntl
import getpass
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, Callable, Dict, List, Optional, Tuple

PROTOCOL = 1
GREETING = "llama-tui-agent"
BEAT = 5.0
SILENCE = 60.0
FOLLOW_PERIOD = 0.1
FILES_PERIOD = 0.5
# The scheduler is asked so many times in a row when things change, then once in so many intervals.
ASKS_IN_A_ROW = 3
INTERVALS_PER_ASK = 3.5
CHUNK = 64 * 1024
OUTPUT_LIMIT = 4 * 1024 * 1024
WATCHED_FILE_LIMIT = 1024 * 1024
# Slurm's place on HyperPod; login shells put it on PATH, `ssh host command` does not.
EXTRA_PATH = "/opt/slurm/bin"

Answer = Dict[str, Any]


class Refused(Exception):
    """A request that cannot be answered; `kind` is what the other end decides by."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


_KINDS = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.EEXIST: "exists",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EROFS: "denied",
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class Wire:
    """The way back: whole lines, from any thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.last_sent = time.monotonic()

    def send(self, message: Answer) -> None:
        line = json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"
        with self._lock:
            self._stream.write(line)
            self._stream.flush()
            self.last_sent = time.monotonic()


class Follower:
    """Pushes what is appended to a file, from a byte offset on, across truncation and replacement."""

    def __init__(self, path: str, offset: int, inode: Optional[int]) -> None:
        self.path = path
        self.offset = offset
        self.inode = inode

    def step(self) -> Optional[Answer]:
        """The next piece, or None when there is nothing new."""
        try:
            # Opened each time: a network file system tells the true size to whoever opens the file.
            handle = os.open(self.path, os.O_RDONLY)
        except OSError:
            return None
        try:
            return self._piece(handle)
        except OSError:
            return None
        finally:
            os.close(handle)

    def _piece(self, handle: int) -> Optional[Answer]:
        state = os.fstat(handle)
        if state.st_size == self.offset and state.st_ino == self.inode:
            return None
        reset = (self.inode is not None and state.st_ino != self.inode) or state.st_size < self.offset
        if reset or self.inode is None:
            self.inode = state.st_ino
        if reset:
            self.offset = 0
        start = self.offset
        data = os.pread(handle, CHUNK, start)
        if not data and not reset:
            return None
        self.offset += len(data)
        return {
            "text": _text(data),
            "start": start,
            "offset": self.offset,
            "inode": self.inode,
            "size": state.st_size,
            "reset": reset,
        }


class Watcher:
    """Pushes the queue command's output and the contents of files, when they change.

    Each event has a number. Whoever knows from the last one that nothing goes on may let the scheduler `rest`: it is
    not asked again until a file changes, or somebody calls `wake`.
    """

    def __init__(self, argv: Optional[List[str]], paths: List[str], interval: float) -> None:
        self.argv = argv
        self.paths = paths
        self.interval = interval
        self._seen: Dict[str, Tuple[int, int, int]] = {}
        self._queue: Optional[Answer] = None
        self._due = 0.0
        self._pace = interval
        self._number = 0
        self._resting = False
        # How often an answer was wanted that is told even if it says nothing new, and how many of these were told.
        self._wanted = self._told = 0
        self._credit = float(ASKS_IN_A_ROW)
        self._credited = time.monotonic()
        self._lock = threading.Lock()

    def step(self) -> Optional[Answer]:
        """What changed since the last call, or None. Asks the scheduler at most once per interval."""
        event: Answer = {}
        wanted = self._wanted
        if self._may_ask():
            queue = self._ask()
            # Nothing changes for long stretches: ask less and less often, up to four intervals apart.
            self._pace = self.interval if queue != self._queue else min(self._pace * 1.5, self.interval * 4)
            event["asked"] = time.time()
            if queue != self._queue:
                self._queue = queue
                event["queue"] = queue
        # After the queue: a job that has left it wrote its last word before.
        files = self._changed_files()
        if files:
            event["files"] = files
        return self._numbered(event, wanted)

    def _numbered(self, event: Answer, wanted: int) -> Optional[Answer]:
        with self._lock:
            news = "queue" in event or "files" in event
            if "asked" in event:
                news = news or wanted > self._told
                self._told = wanted
                if self._wanted == wanted:
                    self._due = time.monotonic() + self._pace
            if "files" in event:
                self._ask_soon()
            if not news:
                return None
            self._resting = False
            self._number += 1
            event["number"] = self._number
            return event

    def _ask_soon(self) -> None:
        self._due, self._pace, self._resting = 0.0, self.interval, False
        self._wanted += 1

    def _may_ask(self) -> bool:
        """Whether it is time to; a queue that changes all the time is not asked all the time."""
        now = time.monotonic()
        gained = (now - self._credited) / (self.interval * INTERVALS_PER_ASK)
        self._credit, self._credited = min(float(ASKS_IN_A_ROW), self._credit + gained), now
        if self.argv is None or self._resting or now < self._due or self._credit < 1:
            return False
        self._credit -= 1
        return True

    def rest(self, number: int) -> bool:
        """No more questions to the scheduler; False when there is news that the caller does not know."""
        with self._lock:
            self._resting = number == self._number and self._told == self._wanted
            return self._resting

    def wake(self) -> None:
        """Asks once more at once, since a person wants to know, and tells the answer whatever it is."""
        with self._lock:
            self._credit = max(self._credit, 1.0)
            self._ask_soon()

    def _ask(self) -> Answer:
        try:
            return run_command(self.argv or [], None, 20.0, {"SLURM_TIME_FORMAT": "%s"})
        except Refused as refusal:
            return {"exit": None, "stdout": "", "stderr": str(refusal)}

    def _changed_files(self) -> Dict[str, Optional[str]]:
        present: Dict[str, Tuple[int, int, int]] = {}
        for path in self.paths:
            for file in _files_at(path):
                try:
                    state = _state_of(file) if file == path else os.stat(file)
                except OSError:
                    continue
                present[file] = (state.st_ino, state.st_mtime_ns, state.st_size)
        changed: Dict[str, Optional[str]] = {}
        for file, mark in present.items():
            if self._seen.get(file) != mark:
                changed[file] = _content(file)
        for file in set(self._seen) - set(present):
            changed[file] = None
        self._seen = present
        return changed


def _state_of(file: str) -> os.stat_result:
    """By opening it: of a file that another machine has changed, a network file system may else tell the old state."""
    handle = os.open(file, os.O_RDONLY)
    try:
        return os.fstat(handle)
    finally:
        os.close(handle)


def _files_at(path: str) -> List[str]:
    if not os.path.isdir(path):
        return [path]
    try:
        names = os.listdir(path)
    except OSError:
        return []
    return [os.path.join(path, name) for name in sorted(names) if name.endswith(".json")]


def _content(path: str) -> Optional[str]:
    try:
        with open(path, "rb") as stream:
            return _text(stream.read(WATCHED_FILE_LIMIT))
    except OSError:
        return None


def collect(paths: List[str]) -> Dict[str, str]:
    """The contents of files, and of the *.json in directories, that are there; in one answer."""
    contents = {file: _content(file) for path in paths for file in _files_at(path)}
    return {file: content for file, content in contents.items() if content is not None}


def run_command(
    argv: List[str], stdin: Optional[str], timeout: float, extra: Dict[str, str], clean: bool = False
) -> Answer:
    """Runs a program and gives its exit code and output; its process group is killed at the time-out."""
    environment = dict(extra) if clean else dict(os.environ, **extra)
    if not clean:
        environment.pop("HF_TOKEN", None)
        environment.pop("HUGGING_FACE_HUB_TOKEN", None)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            raise Refused(_KINDS.get(error.errno or 0, "os"), "%s: %s" % (argv[0], error.strerror)) from None
        try:
            process.communicate(_bytes(stdin) if stdin is not None else None, timeout=timeout)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            raise Refused("timeout", "%s gave no answer within %g s" % (argv[0], timeout)) from None
        return {"exit": process.returncode, "stdout": _output(out), "stderr": _output(err)}


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        pass
    process.wait()


def _output(stream: Any) -> str:
    stream.seek(0)
    return _text(stream.read(OUTPUT_LIMIT))


def read_file(path: str, offset: int, limit: int) -> Answer:
    """A piece of a file; a negative offset counts from its end."""
    with open(path, "rb") as stream:
        state = os.fstat(stream.fileno())
        start = max(0, state.st_size + offset) if offset < 0 else offset
        stream.seek(start)
        data = stream.read(min(limit, OUTPUT_LIMIT))
    return {
        "text": _text(data),
        "start": start,
        "size": state.st_size,
        "inode": state.st_ino,
        "mtime": state.st_mtime,
    }


def write_file(path: str, text: str, mode: int) -> Answer:
    """Replaces a file in one step: a reader sees the old content or the new, never a part."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(_bytes(text))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return {"size": len(_bytes(text))}


def append_file(path: str, text: str) -> Answer:
    """Adds to a file in one write, so that two writers never mix their lines."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, _bytes(text))
        os.fsync(handle)
    finally:
        os.close(handle)
    return {}


def list_directory(path: str) -> Answer:
    """Names, kinds, sizes in bytes and times of what is in a directory."""
    entries = []
    with os.scandir(path) as found:
        for entry in found:
            try:
                state = entry.stat()
                entries.append(
                    {
                        "name": entry.name,
                        "dir": entry.is_dir(),
                        "size": state.st_size,
                        "mtime": state.st_mtime,
                    }
                )
            except OSError:
                continue
    return {"entries": sorted(entries, key=lambda entry: str(entry["name"]))}


def disk(path: str) -> Answer:
    """Room in bytes, and the kind of file system, where `path` is or would be."""
    place = path
    while not os.path.exists(place):
        place = os.path.dirname(place)
    room = os.statvfs(place)
    mount, kind = _mount_of(os.path.realpath(place))
    return {
        "exists": place == path,
        "place": place,
        "free": room.f_bavail * room.f_frsize,
        "total": room.f_blocks * room.f_frsize,
        "writable": os.access(place, os.W_OK | os.X_OK),
        "mount": mount,
        "kind": kind,
    }


def _mount_of(path: str) -> Tuple[str, str]:
    best = ("/", "")
    try:
        with open("/proc/mounts", "rb") as stream:
            lines = _text(stream.read()).splitlines()
    except OSError:
        return best
    for line in lines:
        _, mount, kind = (line.split(" ") + ["", "", ""])[:3]
        inside = path == mount or path.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best


class Agent:
    """Answers requests until the other end is gone."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self._requests = requests
        self._wire = Wire(answers)
        self._heard = time.monotonic()
        self._pool = ThreadPoolExecutor(8)
        self._followers: Dict[int, Follower] = {}
        self._watchers: Dict[int, Watcher] = {}
        self._look_now = threading.Event()
        self._locks: Dict[str, int] = {}
        self._operations: Dict[str, Callable[[Answer], Answer]] = {
            "ping": lambda request: {},
            "run": self._run,
            "read": lambda r: read_file(r["path"], r.get("offset", 0), r.get("limit", CHUNK)),
            "write": lambda r: write_file(r["path"], r["text"], r.get("mode", 0o600)),
            "append": lambda r: append_file(r["path"], r["text"]),
            "collect": lambda r: {"files": collect(r["paths"])},
            "list": lambda r: list_directory(r["path"]),
            "disk": lambda r: disk(r["path"]),
            "mkdir": self._mkdir,
            "lock": self._lock,
            "unlock": self._unlock,
            "follow": self._follow,
            "watch": self._watch,
            "rest": self._rest,
            "wake": self._wake,
            "stop": self._stop,
        }

    def serve(self) -> None:
        """Greets, then answers; returns when stdin ends."""
        self._greet()
        for step in (self._beat, self._push_logs, self._push_changes):
            threading.Thread(target=step, daemon=True).start()
        for line in self._requests:
            self._heard = time.monotonic()
            try:
                request = json.loads(line)
                number = request["id"]
            except (ValueError, KeyError, TypeError):
                continue
            self._pool.submit(self._answer, number, request)

    def _greet(self) -> None:
        os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":" + EXTRA_PATH
        greeting = {
            "protocol": PROTOCOL,
            "user": _user(),
            "uid": os.getuid(),
            "home": os.path.expanduser("~"),
            "host": platform.node(),
            "python": platform.python_version(),
            "pid": os.getpid(),
            "time": time.time(),
        }
        # A line break first: whatever a login shell printed without one must not stick to the greeting.
        self._wire.send({"": ""})
        self._wire.send({GREETING: greeting})

    def _answer(self, number: int, request: Answer) -> None:
        try:
            operation = self._operations.get(request.get("op", ""))
            if operation is None:
                raise Refused("bad_request", "unknown operation %r" % (request.get("op"),))
            answer: Answer = {"id": number, "ok": operation(request)}
        except Refused as refusal:
            answer = {"id": number, "error": {"kind": refusal.kind, "message": str(refusal)}}
        except OSError as error:
            where = " (%s)" % error.filename if error.filename else ""
            message = "%s%s" % (error.strerror or error, where)
            answer = {"id": number, "error": {"kind": _KINDS.get(error.errno or 0, "os"), "message": message}}
        except (KeyError, TypeError, ValueError) as error:
            answer = {"id": number, "error": {"kind": "bad_request", "message": repr(error)}}
        self._send(answer)

    def _send(self, message: Answer) -> None:
        try:
            self._wire.send(message)
        except OSError:
            os._exit(0)

    def _run(self, request: Answer) -> Answer:
        return run_command(
            request["argv"],
            request.get("stdin"),
            float(request.get("timeout", 30)),
            request.get("env") or {},
            bool(request.get("clean")),
        )

    def _mkdir(self, request: Answer) -> Answer:
        os.makedirs(request["path"], mode=0o700, exist_ok=not request.get("new"))
        return {}

    def _lock(self, request: Answer) -> Answer:
        path, patience = request["path"], time.monotonic() + float(request.get("timeout", 10))
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._locks[path] = handle
                return {}
            except OSError:
                if time.monotonic() > patience:
                    os.close(handle)
                    raise Refused("locked", "somebody else is submitting or cancelling in this run") from None
                time.sleep(0.1)

    def _unlock(self, request: Answer) -> Answer:
        handle = self._locks.pop(request["path"], None)
        if handle is not None:
            os.close(handle)
        return {}

    def _follow(self, request: Answer) -> Answer:
        self._followers[request["id"]] = Follower(
            request["path"], request.get("offset", 0), request.get("inode")
        )
        return {}

    def _watch(self, request: Answer) -> Answer:
        watcher = Watcher(request.get("argv"), request["paths"], float(request.get("interval", 5.0)))
        self._watchers[request["id"]] = watcher
        self._look_now.set()
        return {}

    def _rest(self, request: Answer) -> Answer:
        watcher = self._watchers.get(request["sub"])
        return {"resting": watcher is not None and watcher.rest(request["number"])}

    def _wake(self, request: Answer) -> Answer:
        watcher = self._watchers.get(request["sub"])
        if watcher is not None:
            watcher.wake()
            self._look_now.set()
        return {}

    def _stop(self, request: Answer) -> Answer:
        self._followers.pop(request["sub"], None)
        self._watchers.pop(request["sub"], None)
        return {}

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT / 5)
            now = time.monotonic()
            if now - self._heard > SILENCE:
                os._exit(0)
            if now - self._wire.last_sent >= BEAT:
                self._send({"beat": time.time()})

    def _push_logs(self) -> None:
        while True:
            behind = False
            for number, follower in list(self._followers.items()):
                event = follower.step()
                if event is not None:
                    behind = behind or event["offset"] < event["size"]
                    self._send({"sub": number, "event": event})
            if not behind:
                time.sleep(FOLLOW_PERIOD)

    def _push_changes(self) -> None:
        while True:
            for number, watcher in list(self._watchers.items()):
                event = watcher.step()
                if event is not None:
                    self._send({"sub": number, "event": event})
            # Whoever begins to watch, above all after a lost link, is told at once.
            self._look_now.wait(FILES_PERIOD)
            self._look_now.clear()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def main() -> None:
    """Serves on stdin and stdout; leaves without waiting for what still runs."""
    answers = os.fdopen(os.dup(1), "wb")
    # A library that prints must not break the protocol.
    os.dup2(2, 1)
    os.umask(0o077)
    try:
        Agent(sys.stdin.buffer, answers).serve()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
