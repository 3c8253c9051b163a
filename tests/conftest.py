"""Fixtures: real daemons for the tests, and a cut between the tests and the developer's machine."""

import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from textual.pilot import Pilot

from llama_tui.backend.place import Place, SchedulerChoice
from llama_tui.backend.site import Site, connect
from llama_tui.tui.app import LlamaTui
from tests.cluster import APT_LINE as SLURM_APT_LINE
from tests.cluster import SlurmCluster, missing_programs
from tests.cluster_accounting import APT_LINE as ACCOUNTING_APT_LINE
from tests.cluster_accounting import PROGRAMS as ACCOUNTING_PROGRAMS
from tests.cpu_env import cpu_python
from tests.pilot import dealt_with, until
from tests.screens import leave, prepare
from tests.sshd import APT_LINE as SSHD_APT_LINE
from tests.sshd import Sshd
from tests.tmux import APT_LINE as TMUX_APT_LINE
from tests.tmux import Tmux

# The developer's tokens, agents, clusters and settings.
_CUT_OFF = re.compile(
    r"HF_.*|HUGGING_?FACE_.*|SSH_(AUTH_SOCK|AGENT_PID|CONNECTION|CLIENT|TTY|ASKPASS)|TMUX(_PANE)?|(SLURM|SBATCH|SRUN|SQUEUE|SACCT)_.*"
    r"|LLAMA_TUI_.*|AWS_.*|DBUS_SESSION_BUS_ADDRESS|XDG_RUNTIME_DIR|DISPLAY|WAYLAND_DISPLAY|NO_COLOR|FORCE_COLOR"
)
_KEPT = {"LLAMA_TUI_CPU_PYTHON", "LLAMA_TUI_DEMO"}
_REAL_ENVIRONMENT = dict(os.environ)

# How long an example takes says more of the machine's other load than of what is tested.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")


def _cut_off(patch: pytest.MonkeyPatch, home: Path) -> None:
    for name in list(os.environ):
        if _CUT_OFF.fullmatch(name) and name not in _KEPT:
            patch.delenv(name)
    pip_config = Path(_REAL_ENVIRONMENT.get("HOME", "/")) / ".config/pip/pip.conf"
    if pip_config.is_file():
        # Where packages come from is a matter of the machine and its network.
        patch.setenv("PIP_CONFIG_FILE", os.environ.get("PIP_CONFIG_FILE", str(pip_config)))
    patch.setenv("HOME", str(home))
    for name, folder in {
        "XDG_CONFIG_HOME": ".config",
        "XDG_DATA_HOME": ".local/share",
        "XDG_STATE_HOME": ".local/state",
        "XDG_CACHE_HOME": ".cache",
    }.items():
        patch.setenv(name, str(home / folder))
    # What a server without a desktop has.
    patch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")


@pytest.fixture(scope="session", autouse=True)
def _session_cut_off(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What session fixtures start is cut off as well; Ctrl+C reaches it though a shell had us in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        _cut_off(patch, tmp_path_factory.mktemp("home"))
        yield


@pytest.fixture(autouse=True)
def home(
    _session_cut_off: None, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An empty HOME for every test, with no trace of the developer's."""
    folder = tmp_path_factory.mktemp("home")
    _cut_off(monkeypatch, folder)
    return folder


@pytest.fixture(autouse=True)
def _first_screen_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run_test` gives a pilot when the first screen is open, which is loaded behind the first frame.

    The pilot's `press` ends when the keys have been dealt with.
    """
    run_test = LlamaTui.run_test

    @contextlib.asynccontextmanager
    async def opened(app: LlamaTui, **options: Any) -> AsyncIterator[Pilot[None]]:
        # Where something is scrolled to is asked for at once.
        app.animation_level = "none"
        async with run_test(app, **options) as pilot:
            await until(pilot, app.opened.is_set, "first screen")
            press = pilot.press

            async def pressed(*keys: str) -> None:
                await press(*keys)
                await dealt_with(pilot)

            monkeypatch.setattr(pilot, "press", pressed)
            yield pilot

    monkeypatch.setattr(LlamaTui, "run_test", opened)


def _require(programs: tuple[str, ...], apt_line: str) -> None:
    """A machine without the daemons fails: skipped, these tests would look like passed ones."""
    missing = missing_programs(programs)
    if missing:
        pytest.fail(f"{', '.join(missing)} not found. Install with: {apt_line}", pytrace=False)


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A Slurm of two idle nodes; leave it so. Mark the test `slurm`."""
    _require(("slurmctld", "slurmd", "munged", "sbatch"), SLURM_APT_LINE)
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A directory for runs, with a name that has to be quoted."""
    return tmp_path / "it's a work space"


@pytest.fixture
def site(workspace: Path) -> Iterator[Site]:
    """This machine without Slurm."""
    opened = connect(Place(str(workspace), scheduler=SchedulerChoice.DIRECT))
    yield opened
    opened.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """The recorded runs, with the clock stopped, in a home of their own, where the program is as well."""
    home = tmp_path / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        yield prepare(patch, home)
    leave(home)


@pytest.fixture
def slurm_site(
    slurm_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Path], Site]]:
    """Connects workspaces to `slurm_cluster` as its head node would; in the end their jobs are cancelled."""
    for name, value in slurm_cluster.env.items():
        monkeypatch.setenv(name, value)
    with contextlib.ExitStack() as opened:

        def connected(workspace: Path) -> Site:
            site = connect(Place(str(workspace)))
            opened.callback(site.close)
            return site

        yield connected
        slurm_cluster.clear()


@pytest.fixture(scope="session")
def slurm_cluster_accounting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """The same with slurmdbd, where MariaDB is installed: it is no part of what `make test` asks for."""
    _require(("slurmctld", "slurmd", "munged", "sbatch"), SLURM_APT_LINE)
    missing = missing_programs(ACCOUNTING_PROGRAMS)
    if missing:
        pytest.skip(f"{', '.join(missing)} not found. Install with: {ACCOUNTING_APT_LINE}")
    with SlurmCluster(tmp_path_factory.mktemp("slurm-accounting"), accounting=True) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An sshd that lets us in by key. Mark the test `ssh`."""
    _require(("sshd", "ssh", "ssh-keygen"), SSHD_APT_LINE)
    with Sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="session")
def slurm_sshd(slurm_cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An sshd whose sessions use `slurm_cluster`, as on its head node. Mark the test `slurm` and `ssh`."""
    _require(("sshd", "ssh", "ssh-keygen"), SSHD_APT_LINE)
    with Sshd(tmp_path_factory.mktemp("slurm-sshd"), env=slurm_cluster.env) as server:
        yield server


@pytest.fixture
def tmux() -> Iterator[Tmux]:
    """A real terminal for one program; each test gets its own."""
    _require(("tmux",), TMUX_APT_LINE)
    with Tmux() as terminal:
        yield terminal


@pytest.fixture(scope="session")
def cpu_env() -> Path:
    """The Python of an environment with the cpu stack's packages. Mark the test `ml`."""
    return cpu_python(_REAL_ENVIRONMENT)
