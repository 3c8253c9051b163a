"""The command line, as a person or a script uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llama_tui.backend.cli.main import cli
from llama_tui.backend.cli.work import going_on
from llama_tui.backend.place import Place, SchedulerChoice
from llama_tui.backend.settings import Stack, defaults, validated
from llama_tui.backend.site import connect
from llama_tui.backend.stages import Stage
from tests.tiny import tiny_run, wait_for

COMMANDS = tuple(cli.commands)


def call(*argv: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, list(argv), input=stdin)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 5


def test_init_writes_settings_that_render(tmp_path: Path) -> None:
    path = tmp_path / "my settings.toml"
    assert call("init", str(path)).exit_code == 0
    assert "# " in path.read_text()
    result = call("render", str(path), "--stage", "fine")
    assert result.exit_code == 0
    assert "#SBATCH --nodes=1" in result.output
    again = call("init", str(path))
    assert again.exit_code == 2
    assert "--force" in again.output


def test_render_writes_a_run_directory_that_stands_alone(tmp_path: Path) -> None:
    call("init", str(tmp_path / "s.toml"), "--stack", "cpu")
    result = call(
        "render", str(tmp_path / "s.toml"), "--output", str(tmp_path / "out"), "--workspace", "/fsx/w"
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out/scripts/3.finetune.1.sbatch").exists()
    assert (tmp_path / "out/jobs/finetune.py").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ("run", "{tmp}/absent.toml"),
        ("run", "{tmp}"),
        ("run", "{tmp}/bad.toml"),
        ("run", "{tmp}/binary.toml"),
        ("run", "{tmp}/good.toml", "--set", "lora.r=many"),
        ("run", "{tmp}/good.toml", "--set", "lora.rank=3"),
        ("run", "{tmp}/good.toml", "--set", "nonsense"),
        ("run", "{tmp}/good.toml", "--set", "a.b.c=d"),
        ("run", "{tmp}/good.toml", "--set", "paths.workspace="),
        ("run", "{tmp}/good.toml", "--set", "paths.workspace=$(x)\n"),
        ("run", "{tmp}/good.toml", "--set", "lora=3"),
        ("render", "{tmp}/bad.toml"),
        ("render", "{tmp}/good.toml", "--stage", "nine"),
        ("init", "{tmp}/no/such/folder/x.toml"),
        ("init", "{tmp}/x.toml", "--stack", "gpu"),
        ("status", "no-such-run", "--workspace", "{tmp}/w"),
        ("status", "../../etc", "--workspace", "{tmp}/w"),
        ("status", "a\nb", "--workspace", "{tmp}/w"),
        ("status", "$(touch {tmp}/pwned)", "--workspace", "{tmp}/w"),
        ("status", "--workspace", "relative"),
        ("status", "--workspace", "/"),
        ("status", "--host", "a b"),
        ("status", "--python", ""),
        ("logs", "latest", "--stage", "7", "--workspace", "{tmp}/w"),
        ("logs", "latest", "--attempt", "0", "--workspace", "{tmp}/w"),
        ("rerun", "latest", "nine", "--workspace", "{tmp}/w"),
        ("rerun", "latest", "--workspace", "{tmp}/w"),
        ("cancel", "latest", "--from", "", "--workspace", "{tmp}/w"),
        ("compare", "é", "--workspace", "{tmp}/w"),
        ("demo", "--workspace", "relative"),
        ("demo", "--scheduler", "cron"),
        ("nonsense",),
    ],
)
def test_nonsense_is_told_in_words_and_submits_nothing(argv: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[lora]\nr = ")
    (tmp_path / "binary.toml").write_bytes(b"\xff\x00")
    call("init", str(tmp_path / "good.toml"), "--stack", "cpu")
    result = call(*(word.replace("{tmp}", str(tmp_path)) for word in argv))
    assert result.exit_code == 2, result.output
    assert result.output.strip()
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert not list(tmp_path.rglob("submitted.jsonl"))
    assert not (tmp_path / "pwned").exists()


def test_a_python_that_is_not_there_is_code_3(tmp_path: Path) -> None:
    result = call("runs", "--workspace", str(tmp_path), "--python", "/no/python")
    assert result.exit_code == 3
    assert "/no/python" in result.output


def test_slurm_where_there_is_none_is_code_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    result = call("runs", "--workspace", str(tmp_path), "--scheduler", "slurm", "--python", "/usr/bin/env")
    assert result.exit_code == 3


def test_a_token_is_put_where_only_its_owner_reads_it(tmp_path: Path) -> None:
    token = "hf_" + "b" * 34
    assert call("token", "--workspace", str(tmp_path / "w"), stdin=token + "\n").exit_code == 0
    file = tmp_path / "w/.secret/hf_token"
    assert file.read_text().strip() == token
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert call("token", "--workspace", str(tmp_path / "w"), "--remove").exit_code == 0
    assert not file.exists()


@pytest.mark.parametrize("typed", ["", "secret words", "hf_short", "hf_" + "é" * 20, "hf_ok\x00" + "a" * 30])
def test_what_is_no_token_is_refused_without_repeating_it(typed: str, tmp_path: Path) -> None:
    result = call("token", "--workspace", str(tmp_path / "w"), stdin=typed + "\n")
    assert result.exit_code == 2
    assert not typed or typed not in result.output


def test_a_run_from_the_outside(tmp_path: Path) -> None:
    """runs, status, logs, rerun and compare of a run that failed; last, of one that is done."""
    workspace = tmp_path / "w"
    place = ("--workspace", str(workspace), "--scheduler", "direct")
    site = connect(Place(str(workspace), scheduler=SchedulerChoice.DIRECT))
    run = tiny_run(site, workspace, finetune="3")
    run.submit()
    wait_for(run, lambda one: one.finished)

    status = call("status", *place, "--json")
    assert status.exit_code == 1
    data = json.loads(status.output)
    assert data["state"] == "failed"
    assert data["stages"][3]["exit_code"] == 3

    told = call("status", *place).stderr
    assert "What to do:" in told
    assert f"llama-tui rerun {run.run_id} finetune" in told

    assert "this is finetune" in call("logs", *place).output
    assert "this is create_env" in call("logs", "latest", "--stage", "0", *place).output
    assert json.loads(call("runs", *place, "--json").output)[0]["run"] == run.run_id

    missing = call("compare", *place)
    assert missing.exit_code == 2
    assert "no comparison yet" in missing.output

    (Path(run.layout.path) / "behave/finetune").write_text("0")
    again = call("rerun", "latest", *place)
    assert again.exit_code == 0, again.output
    wait_for(run, lambda one: one.finished)
    assert call("status", *place).exit_code == 0
    assert run.snapshot().view(Stage.FINETUNE).attempt == 2

    (Path(run.layout.path) / "comparison.json").write_text('{"created": 1}')
    damaged = call("compare", *place)
    assert damaged.exit_code == 2
    assert "comparison.json" in damaged.output
    site.close()


def test_a_demo_begun_again_opens_the_one_that_goes_on(tmp_path: Path) -> None:
    place = Place(str(tmp_path), scheduler=SchedulerChoice.DIRECT)
    settings = defaults(Stack.CPU).model_dump(mode="json")
    settings["paths"]["workspace"] = str(tmp_path)
    settings["where"]["scheduler"] = "direct"
    assert going_on(validated(settings)) is None
    site = connect(place)
    run = tiny_run(site, tmp_path, create_env="wait", download_model="wait")
    run.submit()
    found = going_on(validated(settings))
    assert found is not None
    assert (found.run_id, found.place) == (run.run_id, place)
    run.cancel()
    wait_for(run, lambda one: one.finished)
    assert going_on(validated(settings)) is None
    site.close()


def test_a_run_by_the_beginning_of_its_name_and_what_is_not_there(tmp_path: Path) -> None:
    where = ("--workspace", str(tmp_path), "--scheduler", "direct")
    none = call("status", *where)
    assert none.exit_code == 2
    assert none.stderr.startswith("No such run: There are no runs")
    call("init", str(tmp_path / "s.toml"), "--stack", "cpu")
    launch = ("run", str(tmp_path / "s.toml"), "--workspace", str(tmp_path), "--no-submit", "--set")
    one, other = (call(*launch, f"name={name}").stdout.strip() for name in ("first", "fire"))
    assert call("status", "firs", *where).stdout.startswith(one)
    assert call("status", "fire", *where).stdout.startswith(other)
    both = call("status", "fir", *where)
    assert both.exit_code == 2
    assert one in both.stderr
    assert other in both.stderr
    late = call("logs", "firs", "--stage", "finetune", "--attempt", "9", *where)
    assert late.exit_code == 2
    assert "attempt 9" in late.stderr
    assert "waits" not in late.stderr


def test_the_estimate_keeps_its_columns(tmp_path: Path) -> None:
    call("init", str(tmp_path / "s.toml"))
    call("run", str(tmp_path / "s.toml"), "--workspace", str(tmp_path), "--no-submit")
    lines = call("estimate", "--workspace", str(tmp_path)).stdout.splitlines()
    column = lines[0].index("estimated")
    assert len(lines) > 10
    assert all(line[column - 1] == " " and line[column] != " " for line in lines)
