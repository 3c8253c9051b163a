"""Hosts to look at: this machine, a healthy Slurm, and one with faults; a hub on the loopback."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llama_tui.backend.place import Place, SchedulerChoice
from llama_tui.backend.preflight import (
    checks,
    device_checks,
    facts,
    place_checks,
    slurm_checks,
    software_checks,
)
from llama_tui.backend.preflight.facts import HUB_DEADLINE, HUB_PATIENCE
from llama_tui.backend.site import Site, connect
from tests.cluster import SlurmCluster
from tests.preflight.hub_server import HubServer
from tests.preflight.looking import FAULTY_CLUSTER, UNHURRIED, FaultyCluster, on_cluster


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at is found on a busy machine as well; how long it may take is the matter of its own tests."""
    monkeypatch.setattr(checks, "PATIENCE", UNHURRIED)
    for module in (device_checks, facts, place_checks, slurm_checks, software_checks):
        monkeypatch.setattr(module, "COMMAND_TIMEOUT", UNHURRIED)
    for limit in ("HUB_PATIENCE", "HUB_DEADLINE"):
        monkeypatch.setattr(facts, limit, UNHURRIED / 2)


@pytest.fixture
def hub_is_given_up(_unhurried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that gives no answer is waited for as long as ever."""
    monkeypatch.setattr(facts, "HUB_PATIENCE", HUB_PATIENCE)
    monkeypatch.setattr(facts, "HUB_DEADLINE", HUB_DEADLINE)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "work space"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        server.healthy()
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield server


@pytest.fixture
def site(workspace: Path, hub: HubServer) -> Iterator[Site]:
    """This machine without Slurm, and a hub on the loopback."""
    assert os.environ["HF_ENDPOINT"] == hub.url
    opened = connect(Place(str(workspace), scheduler=SchedulerChoice.DIRECT))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def faulty_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A Slurm with a node that is far away and down, and a partition of ten minutes; leave it so."""
    with FaultyCluster(tmp_path_factory.mktemp("faulty"), extra=FAULTY_CLUSTER) as cluster:
        yield cluster


@pytest.fixture
def slurm_site(
    slurm_cluster: SlurmCluster, workspace: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    assert os.environ["HF_ENDPOINT"] == hub.url
    opened = on_cluster(slurm_cluster, workspace, monkeypatch)
    yield opened
    opened.close()


@pytest.fixture
def faulty_site(
    faulty_cluster: SlurmCluster, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    opened = on_cluster(faulty_cluster, workspace, monkeypatch)
    yield opened
    opened.close()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a tmpfs with options; only root can."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    made: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"mount{len(made)}"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
