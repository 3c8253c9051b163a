"""What the hub may answer, and where the token goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llama_tui.backend import token as token_store
from llama_tui.backend.preflight.check import Result
from llama_tui.backend.preflight.checks import CHECKS, run_checks
from llama_tui.backend.preflight.facts import Facts
from llama_tui.backend.site import Site, connect
from tests.cluster import wait_until
from tests.preflight import hub_server
from tests.preflight.hub_server import DATASET, HANG, MODEL, TOKEN, HubServer, Reply
from tests.preflight.looking import (
    by_name,
    look,
    settings_with,
)


@pytest.mark.parametrize(
    ("reply", "with_token", "words", "fix"),
    [
        (hub_server.NO_TOKEN, False, "no token was given", "/settings/tokens"),
        (hub_server.NOT_ACCEPTED, True, "licence", f"/{MODEL}"),
        (hub_server.AWAITING, True, "not granted yet", "/settings/gated-repos"),
        (hub_server.REJECTED, True, "refused access", f"/{MODEL}"),
        (hub_server.FINE_GRAINED, True, "fine-grained", "Read access to contents of all public gated repos"),
        (hub_server.BAD_TOKEN, True, "may see", "/settings/tokens"),
        (hub_server.NO_REVISION, True, "no revision", f"/{MODEL}"),
    ],
)
def test_why_a_model_may_not_be_read(
    site: Site, workspace: Path, hub: HubServer, reply: Reply, with_token: bool, words: str, fix: str
) -> None:
    if with_token:
        token_store.put(site, TOKEN)
    hub.refuse_model(reply)
    found = look(site, settings_with(workspace, {"model.model": MODEL}), "model")
    assert found.result is Result.FAIL
    assert words in found.words
    assert hub.url in found.fix
    assert fix in found.fix


def test_a_name_that_the_hub_does_not_know(site: Site, workspace: Path) -> None:
    token_store.put(site, TOKEN)
    settings = settings_with(workspace, {"model.model": "nobody/nothing", "model.dataset": "nobody/none"})
    for name in ("model", "data set"):
        found = look(site, settings, name)
        assert found.result is Result.FAIL
        assert "knows no" in found.words


def test_a_token_that_the_hub_refuses(site: Site, workspace: Path, hub: HubServer) -> None:
    token_store.put(site, TOKEN)
    hub.answers["/api/whoami-v2"] = hub_server.BAD_TOKEN
    found = look(site, settings_with(workspace, {"model.model": MODEL}), "token")
    assert found.result is Result.FAIL
    assert "wrong, expired or revoked" in found.words
    assert f"{hub.url}/settings/tokens" in found.fix


def test_a_token_that_others_can_read(site: Site, workspace: Path) -> None:
    token_store.put(site, TOKEN)
    Path(site.workspace.token).chmod(0o644)
    found = look(site, settings_with(workspace, {"model.model": MODEL}), "token")
    assert found.result is Result.FAIL
    assert "chmod 600" in found.fix


def test_too_many_requests_are_no_failure(site: Site, workspace: Path, hub: HubServer) -> None:
    token_store.put(site, TOKEN)
    hub.answers = {"/": hub_server.TOO_MANY}
    facts = Facts(site, settings_with(workspace, {"model.model": MODEL, "model.dataset": DATASET}))
    for name in ("hub", "token", "model", "data set"):
        assert CHECKS[name](facts).result is Result.WARN, name


@pytest.mark.usefixtures("hub_is_given_up")
def test_a_hub_that_hangs_is_told(site: Site, workspace: Path, hub: HubServer) -> None:
    token_store.put(site, TOKEN)
    hub.answers = {"/": HANG}
    settings = settings_with(workspace, {"model.model": MODEL, "model.dataset": DATASET})
    checks = by_name(run_checks(site, settings))
    assert checks["hub"].result is Result.FAIL
    assert "cannot be reached" in checks["hub"].words
    assert "no answer in time" in checks["hub"].words
    for name in ("token", "model", "data set", "chat template"):
        assert checks[name].result is Result.SKIPPED
    assert checks["Python"].result is Result.PASS


def test_a_hub_that_is_not_there(site: Site, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    other = connect(site.place)
    try:
        found = look(other, settings_with(workspace, {"model.model": MODEL}), "hub")
    finally:
        other.close()
    assert found.result is Result.FAIL
    assert "refused" in found.words
    assert "curl" in found.fix


def test_a_hub_model_without_safetensors_or_template(site: Site, workspace: Path, hub: HubServer) -> None:
    token_store.put(site, TOKEN)
    settings = settings_with(workspace, {"model.model": MODEL})
    hub.answers[f"/{MODEL}/resolve/main/tokenizer_config.json"] = Reply(200, {"bos_token": "<s>"})
    found = look(site, settings, "chat template")
    assert found.result is Result.FAIL
    assert "no chat template" in found.words
    pickled = {"siblings": [{"rfilename": "pytorch_model.bin", "size": 1}]}
    hub.answers[f"/api/models/{MODEL}/revision/main"] = Reply(200, pickled)
    assert "no safetensors" in look(site, settings, "model").words
    hub.healthy()
    hub.answers[f"/{MODEL}/resolve/main/config.json"] = Reply(200, {"model_type": "mamba"})
    assert "mamba" in look(site, settings, "model").words


def test_a_hub_data_set_without_the_fields(site: Site, workspace: Path, hub: HubServer) -> None:
    settings = settings_with(workspace, {"model.dataset": DATASET})
    hub.answers[f"/datasets/{DATASET}/resolve/main/dolly.jsonl"] = Reply(200, '{"text": "a"}\n')
    found = look(site, settings, "data set")
    assert found.result is Result.FAIL
    assert "instruction or response" in found.words
    assert "text" in found.words
    described = {"cardData": {"dataset_info": {"features": [{"name": "prompt"}, {"name": "completion"}]}}}
    hub.answers[f"/api/datasets/{DATASET}"] = Reply(200, described)
    assert look(site, settings, "data set").result is Result.PASS
    hub.answers[f"/api/datasets/{DATASET}"] = Reply(200, {"siblings": [{"rfilename": "a.parquet"}]})
    assert look(site, settings, "data set").result is Result.SKIPPED


@pytest.mark.usefixtures("hub_is_given_up")
def test_the_token_goes_to_the_hub_and_nowhere_else(
    site: Site, workspace: Path, hub: HubServer, tmp_path: Path
) -> None:
    """Looked for in every process's arguments and variables while the hub keeps the program waiting."""
    token_store.put(site, TOKEN)
    hub.answers[f"/{MODEL}/resolve/main/config.json"] = HANG
    with HubServer() as content:
        content.answers["/dolly"] = Reply(200, '{"instruction": "a", "response": "b"}')
        place = f"/datasets/{DATASET}/resolve/main/dolly.jsonl"
        # Another port is another host: as where the hub keeps large files.
        hub.answers[place] = Reply(302, "", {"Location": f"{content.url}/dolly"})
        seen: set[str] = set()
        settings = settings_with(workspace, {"model.model": MODEL, "model.dataset": DATASET})
        with _watching(seen, tmp_path / "seen"):
            checks = run_checks(site, settings)
        assert by_name(checks)["data set"].result is Result.PASS
        assert [header for _, header in content.asked] == [""]
    assert {header for _, header in hub.asked} == {f"Bearer {TOKEN}"}
    assert any("llama-tui" in text or "json.load" in text for text in seen), "no process of ours was seen"
    assert not [text for text in seen if TOKEN in text]
    assert TOKEN not in repr(checks)


class _watching:
    """Collects arguments and variables of all processes in the meantime."""

    def __init__(self, seen: set[str], notes: Path) -> None:
        self._program = (
            "import glob,os,sys,time\n"
            "seen = set()\n"
            "while os.getppid() == int(sys.argv[1]):\n"
            "    for file in glob.glob('/proc/[0-9]*/cmdline') + glob.glob('/proc/[0-9]*/environ'):\n"
            "        try: text = open(file, 'rb').read().decode('utf-8', 'replace')\n"
            "        except OSError: continue\n"
            "        if text not in seen:\n"
            "            seen.add(text); print(repr(text), flush=True)\n"
            "    time.sleep(0.02)\n"
        )
        self._seen = seen
        self._notes = notes

    def __enter__(self) -> None:
        # Into a file: a pipe that nobody reads would soon hold it up.
        with self._notes.open("w") as notes:
            self._process = subprocess.Popen(
                [sys.executable, "-c", self._program, str(os.getpid())], stdout=notes
            )
        wait_until(lambda: self._notes.stat().st_size > 0, "the first look")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)
        self._seen |= set(self._notes.read_text().splitlines())


def test_what_the_hub_says_back_does_not_show_the_token(site: Site, workspace: Path, hub: HubServer) -> None:
    token_store.put(site, TOKEN)
    hub.refuse_model(Reply.refused(418, f"your token {TOKEN} is a teapot"))
    checks = run_checks(site, settings_with(workspace, {"model.model": MODEL}))
    assert "teapot" in by_name(checks)["model"].words
    assert TOKEN not in repr(checks)
