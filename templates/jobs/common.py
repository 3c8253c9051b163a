"""What every job program needs: errors for people, atomic outputs, locks, reports.

Standard library only and no syntax newer than Python 3.8, because create_env runs it on the host's own python3.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
# A partial output of another node is taken for dead when nothing in it changed for this long (seconds).
FOREIGN_LEFTOVER_AGE = 3600
LOCK_POLL_SECONDS = 0.5


class StageError(Exception):
    """A failure that a person can do something about.

    Args:
        message: what went wrong and where, in words.
        hint: what to do next; empty when there is nothing sensible to say.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Terminated(BaseException):
    """SIGTERM arrived: unwinds the program so that partial outputs are removed, then exits with 143."""


def log(message: str) -> None:
    """Print one line of progress at once (a job's stdout is a file that somebody follows)."""
    print(message, flush=True)


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run a job's main and exit: 0 or what it returns, 1 after an error told in words, 143 on SIGTERM.

    An exception that is none of a person's making keeps its traceback: it is a bug, and the log must show it.
    A program that wants to save something on SIGTERM installs its own handler inside `main`.
    """
    signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        sys.exit(main() or 0)
    except StageError as error:
        print_error(error.message, error.hint)
    except OSError as error:
        if error.errno not in _SYSTEM_HINTS:
            raise
        where = f" ({error.filename})" if error.filename else ""
        print_error(f"{error.strerror}{where}", _SYSTEM_HINTS[error.errno])
    except MemoryError:
        print_error("the program ran out of memory", "ask for more memory, or a smaller batch or model")
    except KeyboardInterrupt:
        print_error("interrupted", "")
        sys.exit(EXIT_INTERRUPTED)
    except Terminated:
        print_error(
            "stopped by SIGTERM (cancelled, time limit or preemption)",
            "run this stage again: it goes on from what is saved",
        )
        sys.exit(EXIT_TERMINATED)
    sys.exit(EXIT_FAILED)


_SYSTEM_HINTS: dict[int, str] = {
    errno.ENOSPC: "free some space on that file system, or put the workspace on another one",
    errno.EDQUOT: "your disk quota is used up: free some space, or put the workspace on another file system",
    errno.EROFS: "that file system is read-only: put the workspace on a writable one",
    errno.EACCES: "check the owner and the mode of that path",
    errno.EPERM: "check the owner and the mode of that path",
}


def _raise_terminated(_signum: int, _frame: object) -> NoReturn:
    raise Terminated


def print_error(message: str, hint: str) -> None:
    """Write `error: ...` and, if there is one, `hint: ...` to stderr."""
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    sys.stderr.flush()


def require(path: Path, made_by_stage: str) -> Path:
    """Return the path, or raise StageError naming the stage that makes it when it is not there."""
    if not path.exists():
        raise StageError(f"missing input: {path}", f"run {made_by_stage} first")
    return path


def report(path: Path | None, content: dict[str, Any]) -> None:
    """Write a stage's report, if a report file was asked for."""
    if path is not None:
        atomic_write_json(path, content)


def read_json(path: Path, made_by_stage: str) -> Any:
    """Read a JSON file that a stage wrote; a missing or damaged one raises StageError naming the stage."""
    require(path, made_by_stage)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(f"{path} is not valid JSON: {error}", f"run {made_by_stage} again") from error


def atomic_write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the whole new one, also after a power cut."""
    atomic_write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def atomic_write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a temporary name beside the path, flush it to disk, and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_name(path)
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    fsync_directory(path.parent)


@contextlib.contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory beside the target that becomes the target when the block ends well.

    An earlier target is replaced; on any exception the partial directory is removed and the target is as it was.
    Partial directories that dead processes left behind are removed first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    partial = _partial_name(target)
    partial.mkdir()
    try:
        yield partial
        fsync_tree(partial)
        replace_directory(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_directory(source: Path, target: Path) -> None:
    """Rename a directory to the target name; what was there is moved aside first and then removed."""
    aside = target.with_name(f"{target.name}.partial-{_this_process()}-old")
    if target.exists():
        target.rename(aside)
    source.rename(target)
    fsync_directory(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(target: Path) -> None:
    """Remove `<target>.partial-*` of processes that no longer live.

    Another node's processes cannot be asked on a shared file system: theirs are removed once nothing in
    them has changed for an hour.
    """
    for leftover in target.parent.glob(f"{_glob_escape(target.name)}.partial-*"):
        if _is_dead(leftover, target.name):
            log(f"removing {leftover}, left by a process that ended before it was done")
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink()


def _partial_name(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial-{_this_process()}")


def _this_process() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


def _glob_escape(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _is_dead(leftover: Path, target_name: str) -> bool:
    owner = leftover.name[len(target_name) + len(".partial-") :]
    if owner.endswith("-old"):
        owner = owner[: -len("-old")]
    host, _, pid = owner.rpartition("-")
    if host != socket.gethostname() or not pid.isdigit():
        return time.time() - _newest_change(leftover) > FOREIGN_LEFTOVER_AGE
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _newest_change(path: Path) -> float:
    newest = 0.0
    for item in [path, *path.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):
            newest = max(newest, item.stat().st_mtime)
    return newest


def fsync_directory(path: Path) -> None:
    """Flush a directory's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(root: Path) -> None:
    """Flush every file and directory under the root to disk."""
    for folder, _, files in os.walk(root):
        for name in files:
            descriptor = os.open(Path(folder) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        fsync_directory(Path(folder))


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def require_free_space(folder: Path, needed: int, purpose: str) -> None:
    """Raise StageError when the file system of a folder (that need not exist yet) has fewer free bytes than needed."""
    existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise StageError(
            f"not enough disk space under {existing} for {purpose}: {in_words(needed)} needed, {in_words(free)} free",
            "free some space, or put the workspace on another file system",
        )


def in_words(size: float) -> str:
    """A number of bytes for people, in decimal units: 1.5 GB."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


@contextlib.contextmanager
def exclusive_lock(path: Path, wait_seconds: float, purpose: str) -> Iterator[None]:
    """Hold a lock file for the block; wait at most so many seconds for whoever holds it.

    Where the file system has no locks (Lustre mounted without flock), it says so and goes on without one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        _wait_for_lock(file.fileno(), path, wait_seconds, purpose)
        yield


def _wait_for_lock(descriptor: int, path: Path, wait_seconds: float, purpose: str) -> None:
    deadline = time.monotonic() + wait_seconds
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise
            log(f"this file system has no locks ({error.strerror}): going on without {path}")
            return
        if time.monotonic() > deadline:
            raise StageError(
                f"another process has been busy with {purpose} for more than {wait_seconds:.0f} s (lock {path})",
                "wait until it is done and run this stage again; if no such job runs, remove the lock file",
            )
        if not told:
            log(f"another process is busy with {purpose}: waiting for it")
            told = True
        time.sleep(LOCK_POLL_SECONDS)
