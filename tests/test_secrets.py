"""The token is in one 0600 file and nowhere else, and what we make is for its owner alone; on a real Slurm."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from textual.pilot import Pilot
from textual.widgets import Input

from llama_tui.backend.cli.main import cli
from llama_tui.backend.colleague_report import colleague_report
from llama_tui.backend.hosts.openssh import OpenSshHost
from llama_tui.backend.hosts.proxy import ProxyCommand
from llama_tui.backend.hosts.ssh_ask import NeedsYou
from llama_tui.backend.hosts.ssh_config import resolve
from llama_tui.backend.runs import Run
from llama_tui.backend.site import Site
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState
from llama_tui.backend.ui_request import UiRequest
from llama_tui.tui.app import LlamaTui
from llama_tui.tui.steps.forms import STEPS
from tests.cluster import SlurmCluster
from tests.tiny import go, tiny_run, tiny_settings, wait_for, wait_until_runs

pytestmark = pytest.mark.slurm
TUNE, DOWNLOAD = Stage.FINETUNE, Stage.DOWNLOAD_MODEL
PROGRAM = Path(sys.executable).with_name("llama-tui")
# What is typed into the step, and what the caller happens to have in the environment.
TOKEN = "hf_" + secrets.token_hex(20)
CALLERS = "hf_" + secrets.token_hex(20)
# Parts as well, since a screen may cut or wrap it.
_PARTS = [TOKEN[at : at + 12] for at in range(len(TOKEN) - 12)]
# Made by the tests' own stand-ins, not by us.
_OF_THE_TESTS = {"behave", "go", "envs"}


def holds_token(text: str | bytes) -> bool:
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return any(part in words for part in _PARTS)


def files_with_token(folder: Path) -> list[Path]:
    """Also in a folder whose daemons and jobs go on: what is gone when it is looked at holds nothing."""
    found = []
    for place, _, names in os.walk(folder):
        for path in (Path(place) / name for name in names):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and not path.is_symlink() and holds_token(path.read_bytes()):
                    found.append(path)
    return found


def processes() -> dict[int, tuple[str, str]]:
    """{pid: (command line, environment)} of every process of this machine that can be read."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = [
                (folder / name).read_bytes().decode("utf-8", "replace") for name in ("cmdline", "environ")
            ]
        except OSError:
            continue
        found[int(folder.name)] = (words[0], words[1])
    return found


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "w"


@pytest.fixture
def site(
    slurm_site: Callable[[Path], Site], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """Connected by a caller with no umask at all and a token in the environment."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, CALLERS)
    before = os.umask(0)
    yield slurm_site(workspace)
    os.umask(before)


def program(*argv: str, stdin: str = "", umask: int = 0) -> subprocess.CompletedProcess[str]:
    """The program as a process of its own, started with that umask."""
    return subprocess.run(
        [PROGRAM, *argv], input=stdin, capture_output=True, text=True, umask=umask, timeout=120, check=False
    )


def submitted(site: Site, workspace: Path, **behave: str) -> Run:
    """A run with a token that was given on the command line."""
    given = program("token", "--workspace", str(workspace), stdin=TOKEN + "\n")
    assert given.returncode == 0, given.stderr
    assert not holds_token(given.stdout + given.stderr)
    run = tiny_run(site, workspace, **behave)
    run.submit()
    return run


def look_everywhere(run: Run, cluster: SlurmCluster) -> None:
    """At the processes, Slurm's own records and every file, while the run goes on."""
    seen = processes()
    jobs = [(line, env) for line, env in seen.values() if "SLURM_JOB_ID=" in env]
    agents = [(line, env) for line, env in seen.values() if "sys.stdin.buffer.readline" in line]
    assert any("jobs/" in line for line, _ in jobs)
    assert agents
    for line, env in seen.values():
        assert not holds_token(line + env), line
    for line, env in [*jobs, *agents]:
        assert CALLERS not in line + env, line
    for view in run.snapshot().views:
        if view.job_id and view.state is not StageState.DONE:
            for argv in (["show", "job", "-dd", view.job_id], ["write", "batch_script", view.job_id, "-"]):
                said = cluster.run("scontrol", *argv, check=True).stdout
                assert len(said) > 100
                assert not holds_token(said)
                assert CALLERS not in said
    workspace = Path(run.site.workspace.path)
    assert files_with_token(workspace) == [workspace / ".secret/hf_token"]
    spool = re.search(r"^SlurmdSpoolDir=(.*)/%n$", cluster.conf.read_text(), re.MULTILINE)
    assert spool is not None
    for folder in (cluster.root, Path(spool[1]), Path.home()):
        assert files_with_token(folder) == []


def test_while_a_run_goes_on_the_token_is_in_its_file_and_nowhere_else(
    site: Site, workspace: Path, slurm_cluster: SlurmCluster
) -> None:
    run = submitted(site, workspace, download_model="wait", finetune="wait")
    wait_until_runs(run, DOWNLOAD)
    # The one stage that may read it is told where it is.
    told = f"HF_TOKEN_PATH={workspace}/.secret/hf_token"
    assert any(told in env for line, env in processes().values() if "download_model.py" in line)
    look_everywhere(run, slurm_cluster)
    go(run, DOWNLOAD)
    wait_until_runs(run, TUNE)
    assert not any("HF_TOKEN" in env for line, env in processes().values() if "finetune.py" in line)
    look_everywhere(run, slurm_cluster)
    place = ("--workspace", str(workspace))
    for argv in (["status", "--json"], ["runs", "--json"], ["logs"], ["compare", "--json"], ["status"]):
        said = CliRunner().invoke(cli, [*argv, *place])
        assert said.output
        assert not holds_token(said.output)
    report = colleague_report(run, run.snapshot(), TUNE, None)
    assert "## settings.toml" in report
    assert not holds_token(report)
    go(run, TUNE)
    assert wait_for(run, lambda one: one.finished).state is StageState.DONE
    assert files_with_token(workspace) == [workspace / ".secret/hf_token"]


def test_a_job_that_prints_its_token_does_not_hand_it_to_a_colleague(site: Site, workspace: Path) -> None:
    run = submitted(site, workspace, create_env="3")
    snapshot = wait_for(run, lambda one: one.finished)
    log = Path(run.layout.log(Stage.CREATE_ENV, 1))
    log.write_text(f"HF_TOKEN={TOKEN}\nAuthorization: Bearer {TOKEN}\n{TOKEN[:5]}\x1b[0m{TOKEN[5:]}\n")
    report = colleague_report(run, snapshot, Stage.CREATE_ENV, None)
    assert "Authorization" in report
    assert not holds_token(report)


def open_to_others(folder: Path) -> list[str]:
    """What in a folder (itself too) anybody but its owner may read, write or enter."""
    inside = [
        path
        for path in folder.rglob("*")
        if not path.is_symlink() and not _OF_THE_TESTS & set(path.relative_to(folder).parts)
    ]
    return [f"{path} {path.stat().st_mode:o}" for path in [folder, *inside] if path.stat().st_mode & 0o077]


def test_a_caller_without_a_umask_still_makes_nothing_for_others(site: Site, workspace: Path) -> None:
    run = submitted(site, workspace)
    wait_for(run, lambda one: one.finished)
    assert program("status", "--workspace", str(workspace)).returncode == 0
    made = Path(run.layout.path)
    # Of each kind: from us, from the script, from the program in the job, and from slurmd.
    for name in ("settings.toml", "status/finetune.json", "ran", "logs/finetune.1.log"):
        assert (made / name).exists(), name
    assert (Path.home() / ".local/state/llama-tui/places.json").exists()
    assert open_to_others(workspace) == []
    assert open_to_others(Path.home()) == []
    assert (workspace / ".secret/hf_token").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_no_program_that_we_start_here_gets_the_caller_s_token(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ssh may send its environment on, and a proxy's command is somebody else's script."""
    seen = tmp_path / "seen"
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nenv >>"{seen}"; exit 1\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(ssh.parent), prepend=os.pathsep)
    monkeypatch.setenv(variable, TOKEN)
    OpenSshHost("host").start("true").read(1)
    with pytest.raises(NeedsYou):
        resolve("host")
    proxy = ProxyCommand(f"sh -c 'env >>{seen}'")
    while proxy.recv(100):
        pass
    told = seen.read_text()
    assert told.count(f"PATH={ssh.parent}") == 3
    assert TOKEN not in told


def test_files_for_a_person_are_theirs_alone(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o700)
    assert program("init", str(folder / "my.toml"), "--stack", "cpu").returncode == 0
    rendered = program("render", str(folder / "my.toml"), "--output", str(folder / "out"))
    assert rendered.returncode == 0, rendered.stderr
    assert (folder / "out/scripts/3.finetune.1.sbatch").exists()
    assert open_to_others(folder) == []


async def until(pilot: Pilot[None], condition: Callable[[], bool], what: str) -> None:
    end = asyncio.get_running_loop().time() + 60
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"{what} never held"
        await pilot.pause(0.05)


@pytest.mark.usefixtures("site")
async def test_no_screen_of_the_wizard_shows_the_token(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    app = LlamaTui(UiRequest(settings=tiny_settings(workspace)))
    async with app.run_test(size=(120, 50)) as pilot:
        await until(pilot, lambda: bool(app.screen.query("#rail")), "the wizard")
        await pilot.click("#rail-token")
        await until(pilot, lambda: bool(app.screen.query("#token")), "the step")
        app.screen.query_one("#token", Input).focus()
        await pilot.press(*TOKEN)
        assert app.screen.query_one("#token", Input).value == TOKEN
        pictures = [app.export_screenshot()]
        for step in STEPS:
            await pilot.click(f"#rail-{step.key}")
            await pilot.pause(0.2)
            pictures.append(app.export_screenshot())
        await pilot.press("ctrl+s")
        await until(pilot, lambda: bool(list(tmp_path.glob("*.toml"))) or len(app.screen_stack) > 2, "saving")
        pictures.append(app.export_screenshot())
    assert len(pictures) == len(STEPS) + 2
    assert "Token" in pictures[0]
    assert not any(map(holds_token, pictures))
    assert files_with_token(Path.home()) + files_with_token(tmp_path) == []


async def test_no_screen_of_a_run_shows_the_token(site: Site, workspace: Path) -> None:
    run = submitted(site, workspace, finetune="wait")
    wait_until_runs(run, TUNE)
    pictures = []
    app = LlamaTui(UiRequest(place=site.place, run_id=run.run_id))
    async with app.run_test(size=(140, 50)) as pilot:
        await until(pilot, lambda: "this is finetune" in shown(app), "the log")
        for key in ("1", "2", "3", "s", "escape", "question_mark", "question_mark", "escape"):
            await pilot.press(key)
            await pilot.pause(0.3)
            pictures.append(app.export_screenshot())
    assert "finetune" in pictures[0]
    assert not any(map(holds_token, pictures))


def shown(app: LlamaTui) -> str:
    return app.export_screenshot().replace("&#160;", " ")


_CRASHING = """
import asyncio, sys
from llama_tui.backend.ui_request import UiRequest
from llama_tui.backend.settings import Stack, defaults
from llama_tui.tui.app import LlamaTui
from textual.app import App
from textual.widgets import Input

token = sys.stdin.readline().strip()
if "as-textual" in sys.argv:
    del LlamaTui._fatal_error

def crash(typed):
    raise RuntimeError("a bug of ours")

async def pilot(pilot):
    while not (pilot.app.opened.is_set() and pilot.app.screen.query("#rail-token")):
        await pilot.pause(0.05)
    await pilot.click("#rail-token")
    while not pilot.app.screen.query("#token"):
        await pilot.pause(0.05)
    pilot.app.screen.query_one("#token", Input).value = token
    pilot.app.call_later(crash, token)
    while pilot.app.is_running:
        await asyncio.sleep(0.05)

LlamaTui(UiRequest(settings=defaults(Stack.CPU))).run(headless=True, size=(100, 40), auto_pilot=pilot)
"""


@pytest.mark.parametrize("way", ["ours", "as-textual"])
def test_a_crash_shows_where_and_not_the_token(way: str) -> None:
    """Textual's own way shows every local variable: the second case proves that the first one looks well."""
    done = subprocess.run(
        [sys.executable, "-c", _CRASHING, way],
        input=TOKEN + "\n",
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        check=False,
    )
    said = done.stdout + done.stderr
    assert "a bug of ours" in said
    assert holds_token(said) is (way == "as-textual")
    assert files_with_token(Path.home()) == []
