"""What the tests of the preflight share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llama_tui.backend.place import Place, SchedulerChoice
from llama_tui.backend.preflight.check import Check, Outcome
from llama_tui.backend.preflight.checks import CHECKS
from llama_tui.backend.preflight.facts import Facts
from llama_tui.backend.settings import Settings, Stack, defaults
from llama_tui.backend.site import Site, connect
from tests.cluster import SlurmCluster
from tests.preflight import hub_server

# Seconds for what answers at once on an idle machine.
UNHURRIED = 60.0
FAULTY_CLUSTER = (
    "NodeName=away-1 NodeHostname=away-1 NodeAddr=127.0.0.1 Port=9 CPUs=4 State=DOWN Reason=Action:Replace",
    "PartitionName=far Nodes=away-1",
    "PartitionName=short Nodes=trn1-1 MaxTime=10",
    "PartitionName=near Nodes=trn1-1,trn1-2",
    "EnforcePartLimits=ALL",
)


def settings_with(
    workspace: Path, changes: dict[str, Any] | None = None, stack: Stack = Stack.CPU
) -> Settings:
    """The defaults of a stack with some answers replaced, by section.field."""
    data = defaults(stack).model_dump(mode="json")
    for name, value in {"paths.workspace": str(workspace), **(changes or {})}.items():
        section, field = name.split(".")
        data[section][field] = value
    return Settings.model_validate(data)


def look(site: Site, settings: Settings, name: str) -> Outcome:
    """One check, as it is without the others."""
    return CHECKS[name](Facts(site, settings))


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


class FaultyCluster(SlurmCluster):
    """Its nodes are in several partitions, and sinfo shows them in each."""

    def node_state(self, node: str) -> str:
        return super().node_state(node).partition("\n")[0]


def on_cluster(cluster: SlurmCluster, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    return connect(Place(str(workspace), scheduler=SchedulerChoice.SLURM))


def at(site: Site, workspace: Path) -> Site:
    """The same host with another workspace."""
    return connect(replace(site.place, workspace=str(workspace)))


def model_folder(folder: Path, **changes: str | None) -> Path:
    """A model directory that is well, but for some files."""
    files: dict[str, str | None] = {
        "config.json": json.dumps(hub_server.CONFIG),
        "tokenizer.json": "{}",
        "tokenizer_config.json": '{"chat_template": "x"}',
        "model.safetensors": "weights",
    }
    folder.mkdir()
    for name, text in {**files, **{key.replace("__", "."): text for key, text in changes.items()}}.items():
        if text is not None:
            (folder / name).write_text(text)
    return folder


def fake_program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
