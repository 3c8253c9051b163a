"""The preflight as a whole and as a command: in time, whatever hangs."""

from __future__ import annotations

import ast
import json
import os
import signal
import threading
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llama_tui.backend import token as token_store
from llama_tui.backend.cli.main import cli
from llama_tui.backend.errors import LinkLost
from llama_tui.backend.hosts.choose import HostBook
from llama_tui.backend.place import Place, SchedulerChoice
from llama_tui.backend.preflight.check import Check, Outcome, Result
from llama_tui.backend.preflight.checks import CHECKS, run_checks
from llama_tui.backend.preflight.facts import Facts
from llama_tui.backend.settings_file import to_toml
from llama_tui.backend.site import Site, connect
from tests.cluster import SlurmCluster
from tests.preflight import hub_server
from tests.preflight.hub_server import DATASET, MODEL, TOKEN, HubServer, Reply
from tests.preflight.looking import (
    by_name,
    settings_with,
)
from tests.sshd import Sshd


@pytest.mark.slurm
def test_a_healthy_host_passes(slurm_site: Site, workspace: Path) -> None:
    token_store.put(slurm_site, TOKEN)
    # The 1B of the catalogue in the hub's clothes: a gated model for the cpu stack.
    settings = settings_with(workspace, {"model.model": MODEL, "model.dataset": DATASET})
    told: list[Check] = []
    checks = run_checks(slurm_site, settings, told.append)
    assert told == checks
    assert [check.name for check in checks] == list(CHECKS)
    assert not [check for check in checks if check.result is Result.FAIL]
    passing = {check.name for check in checks if check.result is Result.PASS}
    assert passing >= {"Slurm", "partition", "limits", "shared disk", "space", "Python", "package index"}
    assert passing >= {"hub", "token", "model", "chat template", "data set", "clock"}


@pytest.mark.slurm
@pytest.mark.ssh
def test_a_healthy_host_over_ssh_passes(slurm_sshd: Sshd, workspace: Path) -> None:
    hosts = HostBook(config_file=slurm_sshd.client_config("cluster"))
    opened = connect(Place(str(workspace), "cluster", scheduler=SchedulerChoice.SLURM), hosts)
    try:
        checks = run_checks(opened, settings_with(workspace))
        assert not [check for check in checks if check.result is Result.FAIL]
    finally:
        opened.close()
        hosts.close()


@pytest.mark.parametrize("program", ["hub_probe", "node_probe"])
def test_what_is_sent_to_the_host_is_python_3_8(program: str) -> None:
    source = files("llama_tui.backend.preflight").joinpath(f"{program}.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 8))


@pytest.mark.slurm
def test_a_controller_that_hangs_does_not_hold_up_the_rest(
    faulty_cluster: SlurmCluster, faulty_site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("facts", "slurm_checks"):
        monkeypatch.setattr(f"llama_tui.backend.preflight.{module}.COMMAND_TIMEOUT", 4.0)
    assert faulty_cluster.controller is not None
    faulty_cluster.controller.signal(signal.SIGSTOP)
    try:
        checks = by_name(run_checks(faulty_site, settings_with(workspace)))
    finally:
        faulty_cluster.controller.signal(signal.SIGCONT)
    for name in ("Slurm", "partition", "limits"):
        assert checks[name].result is Result.WARN, checks[name]
    assert "no answer" in checks["Slurm"].words + checks["limits"].words
    for name in ("space", "Python", "package index", "data set", "clock"):
        assert checks[name].result is Result.PASS, checks[name]


def test_a_check_that_never_answers_is_a_warning(
    site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def hang(facts: Facts) -> Outcome:
        ended.wait()
        raise AssertionError(facts)

    monkeypatch.setattr("llama_tui.backend.preflight.checks.PATIENCE", 4.0)
    monkeypatch.setitem(CHECKS, "workspace", hang)
    found = by_name(run_checks(site, settings_with(workspace)))
    ended.set()
    assert found["workspace"].result is Result.WARN
    assert "no answer within 4 s" in found["workspace"].words
    assert found["data set"].seconds < 4


def test_a_host_that_goes_away_is_no_finding(
    site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(facts: Facts) -> Outcome:
        os.kill(facts.site.link.greeting.pid, signal.SIGKILL)
        return Outcome(Result.PASS, "cut")

    monkeypatch.setitem(CHECKS, "workspace", cut)
    with pytest.raises(LinkLost):
        run_checks(site, settings_with(workspace))


def test_an_answer_that_is_not_understood_is_told_in_words(
    site: Site, workspace: Path, hub: HubServer
) -> None:
    hub.answers[f"/api/datasets/{DATASET}"] = Reply(200, {"siblings": [{"size": "large\x1b[2J"}]})
    checks = by_name(run_checks(site, settings_with(workspace, {"model.dataset": DATASET})))
    assert checks["data set"].result is Result.SKIPPED
    assert "not understood" in checks["data set"].words
    assert "\x1b" not in checks["data set"].words


def doctor(*argv: str) -> Any:
    return CliRunner().invoke(cli, ["doctor", *argv])


def test_doctor_prints_what_it_found(workspace: Path, tmp_path: Path, hub: HubServer) -> None:
    file = tmp_path / "run.toml"
    file.write_text(to_toml(settings_with(workspace, {"where.scheduler": "direct"})))
    well = doctor(str(file))
    assert well.exit_code == 0, well.output
    assert "✓ workspace" in well.output
    assert "– Slurm" in well.output
    assert "Nothing stands in the way" in well.output
    hub.refuse_model(hub_server.NO_TOKEN)
    changes = {"where.scheduler": "direct", "model.model": MODEL}
    file.write_text(to_toml(settings_with(workspace, changes)))
    ill = doctor(str(file))
    assert ill.exit_code == 1
    assert "✗ model" in ill.output
    assert f"→ make a token on {hub.url}/settings/tokens" in ill.output
    told = doctor(str(file), "--json")
    assert told.exit_code == 1
    data = json.loads(told.stdout)
    assert data["ok"] is False
    assert {check["result"] for check in data["checks"]} >= {"pass", "fail", "skipped"}


@pytest.mark.usefixtures("hub")
def test_doctor_without_settings_checks_the_defaults(tmp_path: Path) -> None:
    options = ["--workspace", str(tmp_path / "ws"), "--scheduler", "direct", "--stack", "cpu"]
    assert doctor(*options).exit_code == 0
    assert doctor("some.toml", *options).exit_code == 2


def test_doctor_says_when_the_host_is_not_reached(tmp_path: Path) -> None:
    result = doctor("--workspace", str(tmp_path / "ws"), "--python", "/nowhere/python3")
    assert result.exit_code == 3
