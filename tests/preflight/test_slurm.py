"""What Slurm would refuse, and what a node is like."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from llama_tui.backend.preflight import on_node
from llama_tui.backend.preflight.check import Check, Result
from llama_tui.backend.preflight.checks import run_checks
from llama_tui.backend.preflight.facts import Facts, Node
from llama_tui.backend.preflight.slurm_checks import _too_small
from llama_tui.backend.settings import Stack
from llama_tui.backend.site import Site
from tests.cluster import SlurmCluster
from tests.preflight.hub_server import HubServer
from tests.preflight.looking import (
    by_name,
    fake_program,
    look,
    on_cluster,
    settings_with,
)


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("changes", "name", "result", "words"),
    [
        ({"resources.partition": "nowhere"}, "partition", Result.FAIL, "no partition nowhere"),
        ({"resources.partition": "nowhere"}, "limits", Result.FAIL, "nvalid partition"),
        ({"resources.partition": "far"}, "partition", Result.FAIL, "(Action:Replace)"),
        ({"resources.partition": "far"}, "limits", Result.WARN, "away-1"),
        ({"resources.partition": "near", "resources.nodes": 3}, "partition", Result.FAIL, "2 of 2"),
        ({"resources.partition": "near", "resources.nodes": 3}, "limits", Result.FAIL, "refuse"),
        ({"resources.partition": "near", "resources.nodes": 2}, "partition", Result.PASS, "2 of 2 nodes up"),
        (
            {"resources.partition": "near", "resources.exclude": "trn1-[1-2]"},
            "partition",
            Result.FAIL,
            "0 of 0",
        ),
        (
            {"resources.partition": "short", "resources.time_limit": "01:00:00"},
            "limits",
            Result.FAIL,
            "time limit",
        ),
        (
            {"resources.partition": "short", "resources.time_limit": "00:05:00"},
            "limits",
            Result.PASS,
            "would take",
        ),
        ({"resources.partition": "near", "resources.constraint": "h100"}, "limits", Result.FAIL, "feature"),
    ],
)
def test_what_slurm_would_refuse(
    faulty_site: Site, workspace: Path, changes: dict[str, Any], name: str, result: Result, words: str
) -> None:
    found = look(faulty_site, settings_with(workspace, changes), name)
    assert (found.result, words.lower() in found.words.lower()) == (result, True), found
    assert (found.fix == "") is (result is Result.PASS)


@pytest.mark.slurm
def test_a_node_that_goes_down(faulty_cluster: SlurmCluster, faulty_site: Site, workspace: Path) -> None:
    settings = settings_with(workspace, {"resources.partition": "near", "resources.nodes": 2})
    try:
        faulty_cluster.kill_node("trn1-2")
        found = look(faulty_site, settings, "partition")
    finally:
        faulty_cluster.start_node("trn1-2")
    assert found.result is Result.FAIL
    assert "1 of 2 nodes up" in found.words
    assert "trn1-2 down" in found.words
    assert "sinfo -R" in found.fix
    assert look(faulty_site, settings, "partition").result is Result.PASS


@pytest.mark.slurm
def test_a_controller_that_is_down(faulty_cluster: SlurmCluster, faulty_site: Site, workspace: Path) -> None:
    try:
        faulty_cluster.stop_controller()
        found = look(faulty_site, settings_with(workspace), "Slurm")
    finally:
        faulty_cluster.start_controller()
    assert found.result is Result.FAIL
    assert "DOWN" in found.words
    assert look(faulty_site, settings_with(workspace), "Slurm").words.startswith("version 2")


@pytest.mark.slurm
def test_a_package_index_by_a_variable_does_not_reach_jobs(
    faulty_cluster: SlurmCluster, workspace: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{hub.url}/ours")
    opened = on_cluster(faulty_cluster, workspace, monkeypatch)
    try:
        look(opened, settings_with(workspace), "package index")
    finally:
        opened.close()
    assert hub.asked == []


def test_nodes_without_slurm(site: Site, workspace: Path) -> None:
    found = look(site, settings_with(workspace, {"resources.nodes": 2}), "limits")
    assert found.result is Result.FAIL


@pytest.mark.slurm
def test_a_node_with_fewer_cpus_than_neuron_cores(faulty_site: Site, workspace: Path) -> None:
    changes = {"resources.partition": "near", "paths.workspace": "/tmp/nowhere"}
    found = look(faulty_site, settings_with(workspace, changes, Stack.NEURON), "partition")
    assert found.result is Result.FAIL
    assert "has 2 CPUs" in found.words


@pytest.mark.parametrize(
    ("gres", "cpus", "fits"),
    [
        ("", 128, True),
        ("", 8, False),
        ("neuron:16", 128, True),
        ("neuron:8(S:0-1)", 128, False),
        ("neuroncore:32", 128, True),
        ("gpu:1,neuron_core:trn1:16", 128, False),
    ],
)
def test_neuron_cores_by_gres_and_cpus(site: Site, gres: str, cpus: int, fits: bool) -> None:
    node = Node("n1", "n1", "dev", True, "idle", cpus, gres, (), "")
    facts = Facts(site, settings_with(Path("/tmp/nowhere"), stack=Stack.NEURON))
    assert (_too_small(facts, node) == "") is fits


@pytest.mark.slurm
def test_a_node_is_looked_from(slurm_site: Site, workspace: Path) -> None:
    workspace.mkdir()
    checks = by_name(run_checks(slurm_site, settings_with(workspace), on_node=True))
    for name in ("node: Python", "node: workspace", "node: /tmp"):
        assert checks[name].result is Result.PASS, checks[name]
    assert checks["node: devices"].result is Result.SKIPPED
    assert list(workspace.iterdir()) == []


@pytest.mark.slurm
def test_devices_of_a_node(
    slurm_cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """neuron-ls is played: there is no Neuron device here."""
    bin_folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    settings = settings_with(tmp_path / "ws", stack=Stack.NEURON)

    def devices() -> Check:
        opened = on_cluster(slurm_cluster, tmp_path / "ws", monkeypatch)
        try:
            return by_name(run_checks(opened, settings, on_node=True))["node: devices"]
        finally:
            opened.close()

    missing = devices()
    assert missing.result is Result.FAIL
    assert "no Trainium chips" in missing.words
    fake_program(bin_folder, "neuron-ls", f"echo '{json.dumps([{'nc_count': 2}] * 16)}'")
    assert devices().words.endswith("has 16 devices with 32 Neuron cores")
    fake_program(bin_folder, "neuron-ls", f"echo '{json.dumps([{'nc_count': 2}])}'")
    assert devices().result is Result.FAIL


@pytest.mark.slurm
def test_a_node_that_does_not_see_the_workspace(
    slurm_cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """srun is played by a namespace where an empty file system lies over the workspace."""
    if os.geteuid() != 0:
        pytest.skip("a mount namespace needs root")
    workspace = tmp_path / "ws"
    workspace.mkdir()
    inside = f'mount -t tmpfs none {workspace} && exec "$@"'
    skip = 'while [ "${1#--}" != "$1" ]; do shift; done'
    fake_program(tmp_path / "bin", "srun", f"{skip}\nexec unshare --mount /bin/sh -c '{inside}' sh \"$@\"")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    opened = on_cluster(slurm_cluster, workspace, monkeypatch)
    try:
        found = by_name(run_checks(opened, settings_with(workspace), on_node=True))["node: workspace"]
    finally:
        opened.close()
    assert found.result is Result.FAIL
    assert "another" in found.words


@pytest.mark.slurm
def test_no_node_is_free(
    faulty_cluster: SlurmCluster, faulty_site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_node, "NODE_PATIENCE", 3)
    job = faulty_cluster.submit("#!/bin/bash\nsleep 120\n", "--nodes=2", "--exclusive", "--partition=near")
    faulty_cluster.wait_job(job, "RUNNING")
    try:
        settings = settings_with(workspace, {"resources.partition": "near"})
        checks = by_name(run_checks(faulty_site, settings, on_node=True))
        jobs = faulty_cluster.run("squeue", "-h", "-t", "PENDING,RUNNING", "-o", "%j", check=True).stdout
    finally:
        faulty_cluster.clear()
    assert checks["compute node"].result is Result.WARN
    assert "no node was free" in checks["compute node"].words
    assert "wait for others" in checks["partition"].words
    assert "llama-tui-preflight" not in jobs
