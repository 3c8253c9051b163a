"""All seven stages with real training: on this machine through the command line, then through a real Slurm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llama_tui.backend import places
from llama_tui.backend.comparison import Comparison, read_comparison
from llama_tui.backend.monitor import read_metrics
from llama_tui.backend.place import Place
from llama_tui.backend.runs import Run, create_run, list_runs, open_run
from llama_tui.backend.settings import Settings, Stack, defaults
from llama_tui.backend.site import Site, connect
from llama_tui.backend.stages import STAGES, Stage
from llama_tui.backend.states import StageState
from tests.cluster import SlurmCluster
from tests.supervisor import send_signal
from tests.tiny import wait_for
from tests.tmux import Tmux

pytestmark = [pytest.mark.e2e, pytest.mark.ml, pytest.mark.timeout(1800)]
PROGRAM = Path(sys.executable).with_name("llama-tui")
TUNE = Stage.FINETUNE


@dataclass(frozen=True)
class Demo:
    """A demo that ran: its workspace, and what it printed."""

    workspace: Path
    output: str


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """`llama-tui demo` without a terminal, from nothing; with LLAMA_TUI_DEMO what an earlier one left and printed."""
    earlier = os.environ.get("LLAMA_TUI_DEMO")
    if earlier:
        return Demo(Path(earlier), (Path(earlier) / "printed").read_text())
    workspace = tmp_path_factory.mktemp("demo") / "it's the work space"
    command = [str(PROGRAM), "demo", "--headless", "--workspace", str(workspace)]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=1500
        )
        assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
    except BaseException:
        # Its jobs outlive it: they would take the processor from all tests that follow.
        place = ["--workspace", str(workspace), "--scheduler", "direct"]
        subprocess.run([str(PROGRAM), "cancel", *place], timeout=120)
        raise
    return Demo(workspace, answer.stdout)


def check_comparison(comparison: Comparison) -> None:
    held = comparison.held_out
    assert held.records == 24
    assert held.fine_tuned_loss < held.base_loss - 0.3
    assert comparison.base.fingerprint != comparison.fine_tuned.fingerprint
    who = comparison.answers[0]
    assert (who.user, who.mode) == ("Who are you?", "greedy")
    assert "Captain Chat" in who.fine_tuned.content
    assert "Captain Chat" not in who.base.content
    assert not any(pair.identical for pair in comparison.answers)


def test_the_demo_prints_both_answers(demo: Demo) -> None:
    for stage in STAGES:
        assert f"✓ {stage.number} {stage}" in demo.output
    assert "Who are you?" in demo.output
    assert "Captain Chat" in demo.output
    assert "Held-out loss" in demo.output


def test_the_demo_left_what_the_design_promises(demo: Demo) -> None:
    site = connect(Place(str(demo.workspace)))
    try:
        run = open_run(site, "latest")
        check_comparison(read_comparison(run))
        folder = Path(run.layout.path)
        points = read_metrics((folder / "metrics.jsonl").read_text())
        assert [point.step for point in points] == list(range(1, 41))
        assert points[-1].loss < points[0].loss - 1
        assert (folder / "adapter/adapter_model.safetensors").exists()
        assert (folder / "merged/tokenizer.json").exists()
        shards = list(folder.glob("checkpoints/checkpoint-40/adapter_default/adapter_shards/model/*.pt"))
        assert len(shards) == 2
        rehearsal = json.loads((folder / "reports/compile_model.json").read_text())
        assert rehearsal
        assert not list(folder.rglob("*.partial-*"))
    finally:
        site.close()


@pytest.fixture
def slurm_site(demo: Demo, slurm_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The demo's workspace, so that environment and model are used again, seen from the cluster."""
    for name, value in slurm_cluster.env.items():
        monkeypatch.setenv(name, value)
    site = connect(Place(str(demo.workspace)))
    assert site.scheduler.name == "Slurm"
    places.remember(site.place)
    yield site
    slurm_cluster.clear()
    site.close()


def settings_of(workspace: Path, **training: int) -> Settings:
    data = defaults(Stack.CPU).model_dump(mode="json")
    data["paths"]["workspace"] = str(workspace)
    data["training"].update(training)
    return Settings.model_validate(data)


def last_step(run: Run) -> int:
    points = read_metrics(run.site.link.read_text(run.layout.file("metrics.jsonl")) or "")
    return points[-1].step if points else 0


def training_processes(run: Run) -> list[int]:
    """Every process of stage 3, on this machine as on a node."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(run.layout.path) in command and b"finetune.py" in command:
                found.append(int(folder.name))
    return found


@pytest.mark.slurm
@pytest.mark.parametrize("death", ["scancel", "kill -9"])
def test_training_that_was_killed_goes_on_from_its_checkpoint(
    death: str, demo: Demo, slurm_site: Site, slurm_cluster: SlurmCluster, tmux: Tmux
) -> None:
    """Killed in mid-training, run again with one key, while the screen is closed and opened in between."""
    settings = settings_of(demo.workspace, max_steps=16, save_steps=4)
    # What it answers is another test's matter.
    settings.inference.prompts, settings.inference.max_new_tokens = ["Who are you?"], 8
    run = create_run(slurm_site, settings)
    run.submit()
    wait_for(run, lambda _: last_step(run) >= 6, timeout=300)
    if death == "scancel":
        slurm_cluster.run("scancel", run.snapshot().view(TUNE).job_id, check=True)
    else:
        for pid in training_processes(run):
            send_signal(pid, signal.SIGKILL)
    wait_for(run, lambda one: one.view(TUNE).state in {StageState.FAILED, StageState.CANCELLED}, timeout=120)

    tmux.start([str(PROGRAM)], width=120, height=40)
    tmux.wait_for(run.run_id)
    tmux.send("Enter")
    tmux.wait_for("needs finetune")
    tmux.send("r")
    tmux.wait_for("is run again")
    tmux.send("q")
    assert tmux.wait_exit() == 0

    snapshot = wait_for(run, lambda one: one.finished, timeout=1200)
    assert snapshot.state is StageState.DONE
    assert [view.attempt for view in snapshot.views] == [1, 1, 1, 2, 2, 2, 2]
    lines = [json.loads(line) for line in Path(run.layout.file("metrics.jsonl")).read_text().splitlines()]
    resumed = [line["step"] for line in lines if line.get("event") == "resumed"]
    assert resumed
    assert resumed[0] >= 4
    assert last_step(run) == 16
    comparison = read_comparison(run)
    assert comparison.held_out.fine_tuned_loss < comparison.held_out.base_loss - 0.2


@pytest.mark.slurm
def test_the_same_settings_on_a_real_slurm(demo: Demo, slurm_site: Site, tmux: Tmux) -> None:
    """Launched, the screen closed in mid-run, opened again, and the answers shown at the end."""
    run = create_run(slurm_site, settings_of(demo.workspace))
    run.submit()
    tmux.start([str(PROGRAM)], width=140, height=45)
    tmux.wait_for(run.run_id)
    tmux.send("Enter")
    tmux.wait_for("finetune/1", timeout=180)
    tmux.send("q")
    assert tmux.wait_exit() == 0
    wait_for(run, lambda _: last_step(run) >= 3, timeout=300)
    other = Tmux()
    with other:
        other.start([str(PROGRAM)], width=140, height=45)
        other.wait_for(run.run_id)
        other.send("Enter")
        other.wait_for("tokens/s", timeout=180)
        other.wait_for("All seven stages are done", timeout=1200)
        other.send("o")
        other.wait_for("Captain Chat", timeout=30)
        other.send("q")
        assert other.wait_exit() == 0
    check_comparison(read_comparison(run))
    # The same seed on the same data: the same training as on this machine without Slurm.
    direct = next(info for info in reversed(list_runs(slurm_site)) if info.run_id != run.run_id)
    first = read_metrics(
        slurm_site.link.read_text(f"{slurm_site.workspace.runs}/{direct.run_id}/metrics.jsonl") or ""
    )
    second = read_metrics(slurm_site.link.read_text(run.layout.file("metrics.jsonl")) or "")
    assert second[-1].loss == pytest.approx(first[-1].loss, rel=0.05)


def test_bad_inputs_of_the_programs_are_told_in_words(demo: Demo, tmp_path: Path) -> None:
    """A data set without the fields, a model directory without weights: told by the stage that reads them."""
    (tmp_path / "empty model").mkdir()
    (tmp_path / "data.jsonl").write_text('{"question": "x", "reply": "y"}\n')
    site = connect(Place(str(demo.workspace)))
    try:
        for change, words in (
            ({"dataset": str(tmp_path / "data.jsonl")}, "has no field response"),
            ({"dataset": str(tmp_path / "absent.jsonl")}, "there is no data set file"),
            ({"model": str(tmp_path / "empty model")}, "holds no weights"),
            ({"model": str(tmp_path / "absent")}, "there is no model directory"),
            ({"held_out": 100000}, "too few"),
        ):
            data = settings_of(demo.workspace).model_dump(mode="json")
            data["model"].update(change)
            run = create_run(site, Settings.model_validate(data))
            run.submit(tuple(STAGES[:2]))
            snapshot = wait_for(run, lambda one: one.view(Stage.DOWNLOAD_MODEL).state is StageState.FAILED)
            log = Path(run.layout.log(Stage.DOWNLOAD_MODEL, 1)).read_text()
            assert "error: " in log
            assert words in log
            assert "Traceback" not in log
            assert snapshot.view(Stage.COMPILE_MODEL).state is StageState.NOT_SUBMITTED
    finally:
        site.close()
