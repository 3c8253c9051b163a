"""The programs that are measured, and how each is started so that it shows its jobs."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llama_tui.backend.place import Place
from tests.bench.screens.ground import ALIAS, HELD_JOBS, RUNNING_JOBS, WAITING, Ground
from tests.bench.screens.processes import MARK
from tests.sshd import Sshd

LLAMA_TUI = Path(sys.executable).with_name("llama-tui")
PEERS = {"lazyslurm-py": "0.3", "stui": "0.3.6", "slurmhub": "1.1"}

_BARE = """
from textual.app import App
from textual.widgets import DataTable
class Bare(App):
    def compose(self):
        yield DataTable(cursor_type="row")
    def on_mount(self):
        table = self.query_one(DataTable)
        table.add_columns("job", "name", "state")
        for number in range(3):
            table.add_row(str(number), f"bare job {number}", "RUNNING")
Bare().run()
"""
# As the command `llama-tui` does it, with a run to open: the command line has no way to say that.
_OPEN_RUN = """
import sys
from llama_tui.backend.ui_request import UiRequest
from llama_tui.backend.place import Place
from llama_tui.tui.main import open_ui
workspace, host, run = sys.argv[1:]
open_ui(UiRequest(place=Place(workspace, host=host, python=sys.executable), run_id=run))
"""
_HUB = """\
[profiles.bench]
refresh_interval = 5
[profiles.bench.ssh]
host = "127.0.0.1"
port = {port}
username = "{user}"
key_filename = "{key}"
"""
# What of this process's environment a program needs; not its PYTHONPATH, for one.
_PASSED_ON = ("LANG", "SHELL", "TZ")


@dataclass(frozen=True)
class Program:
    """One row of the tables.

    Attributes:
        shows: a regular expression; where it matches a line of the screen, a job is shown.
        sshd: the server that it goes through.
        log: it follows the log of our run's stage.
        leftovers: below its home, what one that was killed leaves in the way of the next.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    shows: str
    home: Path
    sshd: Sshd | None = None
    log: bool = False
    leftovers: str = ""
    asks_slurm: bool = True

    @property
    def ours(self) -> bool:
        return self.name.startswith("llama-tui")


@dataclass
class Programs:
    """All that can be run here.

    Attributes:
        missing: peers that could not be, and why.
    """

    ground: Ground
    peers: Path | None
    missing: dict[str, str] = field(default_factory=dict)

    def all(self) -> list[Program]:
        """In the order of the tables."""
        return [self._bare(), *self._ours(), *self._theirs()]

    def _home(self, name: str) -> Path:
        # Short, since a socket's path is limited to 107 bytes and lazyslurm puts one far below it.
        home = self.ground.root / "h" / name.replace(" ", "-")
        (home / ".ssh").mkdir(parents=True, exist_ok=True)
        return home

    def _env(self, name: str, home: Path) -> dict[str, str]:
        kept = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
        return {
            **kept,
            **self.ground.cluster.env,
            "PATH": f"{self._ssh_wrapper(home)}:{self.ground.shims}:{os.environ['PATH']}",
            "HOME": str(home),
            "USER": getpass.getuser(),
            "LOGNAME": getpass.getuser(),
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
            "LANG": "C.UTF-8",
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
            MARK: name,
        }

    def _ssh_wrapper(self, home: Path) -> Path:
        """OpenSSH reads the config of the user's real home only, whatever HOME says."""
        folder = home / "bin"
        folder.mkdir(exist_ok=True)
        wrapper = folder / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F "{home}/.ssh/config" "$@"\n')
        wrapper.chmod(0o755)
        return folder

    def _known(self, home: Path, sshd: Sshd) -> None:
        (home / ".ssh/config").write_text(sshd.client_config(ALIAS).read_text())

    def _bare(self) -> Program:
        home = self._home("bare")
        return Program(
            "bare Textual, a table of 3 rows",
            (sys.executable, "-c", _BARE),
            self._env("bare", home),
            "bare job",
            home,
            asks_slurm=False,
        )

    def _ours(self) -> Iterator[Program]:
        place = str(self.ground.workspace)
        for where, host in (("local", ""), ("over SSH", ALIAS)):
            sshd = self.ground.sshd if host else None
            for what in ("monitor", "runs"):
                name = f"llama-tui {what}, {where}"
                home = self._home(name)
                if sshd:
                    self._known(home, sshd)
                env = self._env(name, home)
                argv: tuple[str, ...] = (str(LLAMA_TUI),)
                shows = WAITING.value
                if what == "monitor":
                    argv = (sys.executable, "-c", _OPEN_RUN, place, host, self.ground.run.run_id)
                    shows = rf"{WAITING} .*\brunning\b"
                else:
                    self._remember(Place(place, host, sys.executable), env)
                yield Program(name, argv, env, shows, home, sshd, log=what == "monitor")

    def _remember(self, place: Place, env: Mapping[str, str]) -> None:
        """The list of runs looks at places used before."""
        options = ["--workspace", place.workspace, "--python", place.python]
        options += ["--host", place.host] if place.host else []
        subprocess.run([LLAMA_TUI, "runs", *options], env=env, check=True, capture_output=True)

    def _theirs(self) -> Iterator[Program]:
        jobs = "|".join((*RUNNING_JOBS, *HELD_JOBS))
        if lazyslurm := self._peer("lazyslurm-py", "lazyslurm"):
            home = self._home("lazy")
            name = "lazyslurm-py, local"
            yield Program(name, (lazyslurm,), self._env(name, home), jobs, home)
            home = self._home("lazy-ssh")
            self._known(home, self.ground.sshd)
            name = "lazyslurm-py, over SSH"
            argv = (lazyslurm, "--remote", ALIAS)
            env, sockets = self._env(name, home), ".ssh/cm-lazyslurm"
            yield Program(name, argv, env, jobs, home, self.ground.sshd, leftovers=sockets)
        if stui := self._peer("stui", "stui"):
            home = self._home("stui")
            yield Program("stui, local", (stui,), self._env("stui", home), jobs, home)
        if slurmhub := self._peer("slurmhub", "slurmhub"):
            yield self._slurmhub(slurmhub, jobs)

    def _slurmhub(self, program: str, jobs: str) -> Program:
        sshd, home = self.ground.generous_sshd, self._home("slurmhub")
        self._known(home, sshd)
        config = home / "config.toml"
        config.write_text(_HUB.format(port=sshd.port, user=sshd.user, key=sshd.key))
        name = "slurmhub, over SSH, sacct made to succeed"
        return Program(
            name, (program, "--config", str(config)), self._env("slurmhub", home), jobs, home, sshd
        )

    def _peer(self, package: str, program: str) -> str | None:
        """The peer's program; why not is kept."""
        if self.peers is None:
            self.missing[package] = "no --peers given"
            return None
        path = self.peers / package / "bin" / program
        if path.exists():
            return str(path)
        wanted = f"python3 -m venv {self.peers / package} && {path.parent}/pip install '{package}=={PEERS[package]}.*'"
        self.missing[package] = f"{path} is not there ({wanted}; slurmhub needs Python 3.12)"
        return None
