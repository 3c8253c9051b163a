"""Workspace, Python, packages, model, data set: each on a host that was made to fail it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llama_tui.backend.preflight.check import Result
from llama_tui.backend.preflight.checks import CHECKS, run_checks
from llama_tui.backend.preflight.facts import Facts
from llama_tui.backend.settings import Stack
from llama_tui.backend.site import Site, connect
from llama_tui.backend.stack_file import StackFile
from tests.preflight.hub_server import HANG, HubServer, Reply
from tests.preflight.looking import (
    at,
    fake_program,
    look,
    model_folder,
    settings_with,
)


def test_a_read_only_workspace(site: Site, mounted: Callable[[str], Path]) -> None:
    folder = mounted("ro,size=1m") / "ws"
    other = at(site, folder)
    try:
        found = look(other, settings_with(folder), "workspace")
    finally:
        other.close()
    assert found.result is Result.FAIL
    assert "Read-only file system" in found.words
    assert "paths.workspace" in found.fix


def test_a_workspace_below_a_file(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    other = at(site, tmp_path / "file/ws")
    try:
        found = look(other, settings_with(tmp_path / "file/ws"), "workspace")
    finally:
        other.close()
    assert found.result is Result.FAIL
    assert "Not a directory" in found.words


def test_looking_leaves_nothing_behind(site: Site, workspace: Path) -> None:
    workspace.mkdir()
    run_checks(site, settings_with(workspace))
    assert list(workspace.iterdir()) == []
    assert list(workspace.parent.glob(".llama-tui*")) == []


def test_too_little_space(site: Site, mounted: Callable[[str], Path]) -> None:
    folder = mounted("size=50m")
    other = at(site, folder)
    try:
        found = look(other, settings_with(folder), "space")
    finally:
        other.close()
    assert found.result is Result.FAIL
    assert "52.4 MB free" in found.words
    assert "needed" in found.words
    assert str(folder) in found.fix


def test_space_is_asked_for_what_is_not_there_yet(
    site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_with(workspace)
    facts = Facts(site, settings)
    assert "envs/cpu" in CHECKS["space"](facts).words
    for marker in (facts.plan.env_marker, f"{facts.plan.model_dir}/.complete"):
        Path(marker).parent.mkdir(parents=True, exist_ok=True)
        Path(marker).write_text("{}")
    facts = Facts(site, settings)
    found = CHECKS["space"](facts)
    assert "envs/" not in found.words
    assert "models/" not in found.words
    assert CHECKS["Python"](facts).words == "the stack's environment is there already"
    assert CHECKS["package index"](facts).result is Result.SKIPPED
    monkeypatch.setattr(
        facts, "disk", lambda: {"free": 1_000_000_000, "mount": "/", "place": "/", "kind": "ext4"}
    )
    assert CHECKS["space"](facts).result is Result.PASS
    monkeypatch.setattr(
        facts, "disk", lambda: {"free": 400_000_000, "mount": "/", "place": "/", "kind": "ext4"}
    )
    assert CHECKS["space"](facts).result is not Result.PASS


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("kind", "result"),
    [("lustre", Result.PASS), ("nfs4", Result.PASS), ("ext4", Result.FAIL), ("fuse.ours", Result.WARN)],
)
def test_the_nodes_must_see_the_workspace(
    faulty_site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch, kind: str, result: Result
) -> None:
    facts = Facts(faulty_site, settings_with(workspace, {"resources.partition": "far"}))
    disk = {**facts.disk(), "kind": kind}
    monkeypatch.setattr(facts, "disk", lambda: disk)
    found = CHECKS["shared disk"](facts)
    assert found.result is result
    if result is Result.FAIL:
        assert "away-1 does not see" in found.words


def test_the_neuron_stack_on_this_machine_needs_its_chips(
    site: Site, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_with(tmp_path / "ws", stack=Stack.NEURON)
    found = look(site, settings, "devices")
    assert found.result is Result.FAIL
    assert "has no Trainium chips" in found.words
    assert "without Slurm" in found.fix
    assert "the cpu stack" in found.fix
    assert look(site, settings_with(workspace), "devices").result is Result.SKIPPED
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    for devices, expected in ((16, Result.PASS), (1, Result.FAIL)):
        fake_program(tmp_path / "bin", "neuron-ls", f"echo '{json.dumps([{'nc_count': 2}] * devices)}'")
        with_chips = at(site, workspace)
        try:
            assert look(with_chips, settings, "devices").result is expected
        finally:
            with_chips.close()


def test_no_python_fits(site: Site, workspace: Path) -> None:
    facts = Facts(site, settings_with(workspace))
    stack = json.loads(facts.plan.stack.as_json) | {"python_min": "3.90", "python_max": "3.91"}
    facts.plan = replace(facts.plan, stack=StackFile("cpu", (), json.dumps(stack)))
    found = CHECKS["Python"](facts)
    assert found.result is Result.FAIL
    assert "3.90 to 3.91" in found.words
    assert "where.python" in found.fix


def test_a_ready_made_environment_is_checked(site: Site, workspace: Path, tmp_path: Path) -> None:
    changes = {"paths.environment": str(tmp_path / "venv")}
    assert look(site, settings_with(workspace, changes), "Python").result is Result.FAIL
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    found = look(site, settings_with(workspace, changes), "Python")
    assert found.result is Result.FAIL
    assert "torch" in found.words


def test_a_package_index_that_does_not_answer(
    site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    other = connect(site.place)
    try:
        found = look(other, settings_with(workspace), "package index")
        model = look(other, settings_with(workspace), "model")
    finally:
        other.close()
    assert found.result is Result.FAIL
    assert "refuses connections" in found.words
    assert found.fix
    assert model.result is Result.FAIL


def test_a_package_index_that_hangs_is_told(
    site: Site, workspace: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.answers["/slow/"] = HANG
    monkeypatch.setenv("PIP_INDEX_URL", f"{hub.url}/slow")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    other = connect(site.place)
    try:
        found = look(other, settings_with(workspace), "package index")
    finally:
        other.close()
    assert found.result is Result.FAIL
    assert "stopped answering" in found.words


def test_the_neuron_stack_needs_its_own_index(
    site: Site, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual index has a package of that name, of other versions: what AWS's has is played on the loopback."""
    page = '<a href="/neuronx_cc-{0}-py3-none-any.whl">neuronx_cc-{0}-py3-none-any.whl</a>'
    hub.answers["/usual/neuronx-cc/"] = Reply(200, page.format("0.1"), {"Content-Type": "text/html"})
    hub.answers["/aws/neuronx-cc/"] = Reply(200, page.format("2.21.33363.0"), {"Content-Type": "text/html"})
    monkeypatch.setenv("PIP_INDEX_URL", f"{hub.url}/usual")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    other = connect(site.place)
    try:
        place = Path("/tmp/nowhere")
        without = look(other, settings_with(place, stack=Stack.NEURON), "package index")
        changes = {"paths.package_index": f"{hub.url}/aws"}
        with_it = look(other, settings_with(place, changes, Stack.NEURON), "package index")
    finally:
        other.close()
    assert without.result is Result.FAIL
    assert "paths.package_index" in without.fix
    assert with_it.result is Result.PASS


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"model__safetensors": None}, "model", "no safetensors"),
        ({"model__safetensors": None, "pytorch_model__bin": "x"}, "model", "pickled"),
        ({"model__safetensors": ""}, "model", "empty"),
        ({"config__json": None}, "model", "config.json"),
        ({"config__json": "[1"}, "model", "config.json"),
        ({"config__json": '{"model_type": "gpt2"}'}, "model", "gpt2"),
        (
            {"model__safetensors__index__json": '{"weight_map": {"a": "b.safetensors"}}'},
            "model",
            "b.safetensors",
        ),
        ({"tokenizer_config__json": "{}"}, "chat template", "no chat template"),
        ({"tokenizer_config__json": None, "tokenizer__json": None}, "chat template", "no tokenizer"),
    ],
)
def test_a_model_directory_that_cannot_be_trained(
    site: Site, workspace: Path, tmp_path: Path, changes: dict[str, str | None], name: str, words: str
) -> None:
    folder = model_folder(tmp_path / "model", **changes)
    found = look(site, settings_with(workspace, {"model.model": str(folder)}), name)
    assert found.result is Result.FAIL
    assert words in found.words
    assert found.fix


def test_a_model_directory_that_is_well_or_absent(site: Site, workspace: Path, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", tokenizer_config__json="{}", chat_template__jinja="x")
    facts = Facts(site, settings_with(workspace, {"model.model": str(folder)}))
    for name in ("model", "chat template", "parallel"):
        assert CHECKS[name](facts).result in {Result.PASS, Result.WARN}, name
    shutil.rmtree(folder)
    assert look(site, facts.settings, "model").result is Result.FAIL


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"text": "x"}\n' * 99, "no instruction and response"),
        ("a.csv", b"text,label\nx,1\n" * 99, "no instruction and response"),
        ("a.jsonl", b'{"instruction": "a", "response": "b"}\n', "too few"),
        ("a.jsonl", b"not json\n", "not JSON"),
        ("a.jsonl", b"", "no records"),
        ("a.jsonl", b'{"instruction": "\xff", "response": "b"}\n' * 99, "UTF-8"),
        ("a.txt", b"x", "not a .jsonl"),
        ("a.parquet", b"<html>", "not a parquet"),
        ("a.jsonl", None, "No such file"),
    ],
)
def test_a_data_set_that_cannot_be_used(
    site: Site, workspace: Path, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    found = look(site, settings_with(workspace, {"model.dataset": str(tmp_path / name)}), "data set")
    assert found.result is Result.FAIL
    assert words in found.words
    assert found.fix


def test_data_sets_that_can_be_used(site: Site, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,completion\n" + "x,y\n" * 99)
    (tmp_path / "a.parquet").write_bytes(b"PAR1rest")
    assert (
        look(site, settings_with(workspace, {"model.dataset": str(tmp_path / "a.csv")}), "data set").result
        == "pass"
    )
    parquet = look(site, settings_with(workspace, {"model.dataset": str(tmp_path / "a.parquet")}), "data set")
    assert parquet.result is Result.SKIPPED
    assert look(site, settings_with(workspace), "data set").result is Result.PASS


def test_a_layout_that_does_not_divide(site: Site) -> None:
    place = Path("/tmp/nowhere")
    found = look(site, settings_with(place, {"training.sequence_length": 1001}, Stack.NEURON), "parallel")
    assert found.result is Result.FAIL
    assert "training.sequence_length" in found.words
    assert found.fix
    assert look(site, settings_with(place, stack=Stack.NEURON), "parallel").result is not Result.FAIL


def test_a_clock_that_is_wrong(site: Site, workspace: Path) -> None:
    assert look(site, settings_with(workspace), "clock").result is Result.PASS
    site.link.greeting = replace(site.link.greeting, time=time.time() - 90)
    late = Site(site.place, site.link, site.scheduler, site.workspace)
    found = look(late, settings_with(workspace), "clock")
    assert found.result is Result.WARN
    assert "90 s behind" in found.words
