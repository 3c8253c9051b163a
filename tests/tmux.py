"""Drive a program in a real terminal: tmux with a server of its own."""

import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster import ClusterError, program, wait_until
from tests.supervisor import Daemon

APT_LINE = "apt-get install --no-install-recommends tmux"
# A program that ended stays readable; no status line, so that it gets every row; Escape at once.
_CONF = """\
set -g remain-on-exit on
set -g remain-on-exit-format ""
set -g status off
set -s escape-time 0
set -g default-terminal tmux-256color
set -g history-limit 10000
set -as terminal-features ",*:RGB"
"""


class Tmux:
    """One program on a terminal of a fixed size; a context manager.

    The tmux server, the program and all it starts end with `close()`, or with the test run.
    """

    def __init__(self) -> None:
        # A socket's path is limited to 107 bytes, which a test's directory may exceed.
        self._folder = Path(tempfile.mkdtemp(prefix="llama-tui-", dir="/tmp"))
        self._socket = self._folder / "tmux"
        conf = self._folder / "conf"
        conf.write_text(_CONF)
        argv = [program("tmux"), "-S", str(self._socket), "-f", str(conf), "-D"]
        env = {name: value for name, value in os.environ.items() if not name.startswith("TMUX")}
        log = self._folder / "log"
        self._server = Daemon(argv, log, env=env | {"LC_ALL": "C.UTF-8"}, remove=self._folder)
        wait_until(self._socket.exists, f"tmux; see {log}")

    def _tmux(self, *argv: str) -> str:
        command = [program("tmux"), "-S", str(self._socket), *argv]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=10)
        if done.returncode:
            raise ClusterError(f"tmux {argv[0]}: {done.stderr.strip()}")
        return done.stdout

    def start(
        self,
        cmd: str | Sequence[str],
        width: int = 120,
        height: int = 40,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Run `cmd` (a shell line or arguments) in this process's environment changed by `env`.

        A program that ran before is killed. The size is in character cells.
        """
        line = cmd if isinstance(cmd, str) else shlex.join(cmd)
        merged = {**os.environ, "COLORTERM": "truecolor", "LC_ALL": "C.UTF-8", **(env or {})}
        # tmux sets these itself, per terminal.
        settings = [f"{k}={v}" for k, v in merged.items() if k not in ("TERM", "TMUX", "TMUX_PANE")]
        argv = ["env", "-i", f"TERM={(env or {}).get('TERM', 'tmux-256color')}", *settings, "sh", "-c", line]
        script = self._folder / "run"
        script.write_text(f"exec {shlex.join(argv)}\n")
        if self._has_session():
            self._tmux("kill-session")
        size = ["-x", str(width), "-y", str(height)]
        self._tmux("new-session", "-d", *size, "-c", str(Path.cwd()), f"exec sh {shlex.quote(str(script))}")

    def _has_session(self) -> bool:
        command = [program("tmux"), "-S", str(self._socket), "has-session"]
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0

    def send(self, *keys: str) -> None:
        """Press keys by tmux's names: `Enter`, `Escape`, `Down`, `BTab`, `C-c`, `M-x`, or a single character."""
        self._tmux("send-keys", "--", *keys)

    def type_text(self, text: str) -> None:
        """Type text as it is, also when it reads like the name of a key."""
        self._tmux("send-keys", "-l", "--", text)

    def click(self, x: int, y: int) -> None:
        """Press and release the left button on column `x` of row `y`, both from 0, as SGR mouse reports."""
        reports = "".join(f"\x1b[<0;{x + 1};{y + 1}{end}" for end in "Mm")
        self._tmux("send-keys", "-H", *(f"{byte:02x}" for byte in reports.encode()))

    def click_text(self, text: str) -> None:
        """Click on the middle of the first place on screen that shows `text`."""
        for row, line in enumerate(self.screen().splitlines()):
            if text in line:
                self.click(line.index(text) + len(text) // 2, row)
                return
        raise AssertionError(f"{text!r} is not on screen to click on:\n{self.screen()}")

    def resize(self, width: int, height: int) -> None:
        """Change the terminal's size, as dragging its window does."""
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def screen(self, *, colours: bool = False) -> str:
        """What the terminal shows now, one line per row; with `colours` including escape sequences."""
        return self._tmux("capture-pane", "-p", *(["-e"] if colours else []))

    def wait_for(self, text: str | re.Pattern[str], timeout: float = 60) -> str:
        """Poll until the screen shows `text` (a string or a pattern); the screen.

        Raises AssertionError with the screen as it is after `timeout` seconds.
        """
        pattern = re.compile(re.escape(text)) if isinstance(text, str) else text
        try:
            wait_until(lambda: pattern.search(self.screen()) is not None, pattern.pattern, timeout)
        except ClusterError:
            raise AssertionError(
                f"{pattern.pattern!r} not on screen after {timeout:g} s:\n{self.screen()}"
            ) from None
        return self.screen()

    def wait_exit(self, timeout: float = 60) -> int:
        """Wait for the program's end; its exit code, or minus the signal. Raises ClusterError after `timeout` seconds."""
        wait_until(self._has_ended, "the program in tmux to end", timeout)
        return int(self._pane("pane_dead_status") or -int(self._pane("pane_dead_signal")))

    def _has_ended(self) -> bool:
        """Whether tmux knows how the program ended, which it learns a moment after it saw the end of the output."""
        if self._told("#{pane_dead_status}#{pane_dead_signal}"):
            return True
        if self._pane("pane_dead") == "1":
            # tmux 3.3a now and then misses the signal of its child's end, and leaves it a zombie: told once more.
            os.kill(int(self._told("#{pid}")), signal.SIGCHLD)
        return False

    def _pane(self, name: str) -> str:
        return self._told(f"#{{{name}}}")

    def _told(self, words: str) -> str:
        return self._tmux("display-message", "-p", words).strip()

    def close(self) -> None:
        """End the program and the terminal."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
