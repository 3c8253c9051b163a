"""Runs through a real Slurm of two nodes, around programs that take no time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_tui.backend import submitting
from llama_tui.backend.errors import SchedulerError
from llama_tui.backend.render import comment_of
from llama_tui.backend.runs import create_run, open_run
from llama_tui.backend.schedulers.slurm import Slurm
from llama_tui.backend.settings import Settings
from llama_tui.backend.site import Site
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState
from llama_tui.backend.submitting import find_job
from tests.cluster import SlurmCluster, wait_until
from tests.tiny import ALL, go, ran, set_behaviour, tiny_run, tiny_settings, wait_for, wait_until_runs

pytestmark = pytest.mark.slurm
TUNE = Stage.FINETUNE


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "it's 100% $HOME"


@pytest.fixture
def site(slurm_site: Callable[[Path], Site], workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_developer")
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.invalid")
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.invalid:3128")
    opened = slurm_site(workspace)
    assert isinstance(opened.scheduler, Slurm)
    return opened


def test_the_chain_runs_in_order_under_its_comments(site: Site, workspace: Path) -> None:
    run = tiny_run(site, workspace, create_env="wait")
    run.submit()
    waiting = [job for job in site.scheduler.queue() if job.comment.startswith(run.run_id)]
    assert [job.comment for job in sorted(waiting, key=lambda job: int(job.id))] == [
        f"{run.run_id}/{stage}/1" for stage in ALL
    ]
    go(run, Stage.CREATE_ENV)
    snapshot = wait_for(run, lambda one: one.finished)
    assert snapshot.state is StageState.DONE
    assert ran(run) == ALL
    assert {view.node for view in snapshot.views} <= {"trn1-1", "trn1-2"} | {snapshot.views[0].node}


def test_a_failure_blocks_a_rerun_keeps_and_goes_on(site: Site, workspace: Path) -> None:
    run = tiny_run(site, workspace, finetune="9")
    run.submit()
    snapshot = wait_for(run, lambda one: one.finished and one.view(TUNE).state is StageState.FAILED)
    assert snapshot.view(TUNE).exit_code == 9
    assert snapshot.view(Stage.INFERENCE).state is StageState.BLOCKED
    set_behaviour(run, TUNE, "0")
    run.rerun(TUNE)
    assert wait_for(run, lambda one: one.finished).state is StageState.DONE
    assert ran(run) == [*ALL[:3], TUNE, *ALL[3:]]


def test_scancel_from_outside_is_seen(site: Site, workspace: Path, slurm_cluster: SlurmCluster) -> None:
    run = tiny_run(site, workspace, finetune="wait")
    run.submit()
    wait_until_runs(run, TUNE)
    job_id = run.snapshot().view(TUNE).job_id
    slurm_cluster.run("scancel", job_id, check=True)
    snapshot = wait_for(run, lambda one: one.finished)
    assert snapshot.view(TUNE).state is StageState.CANCELLED
    go(run, TUNE)
    run.rerun(TUNE)
    assert wait_for(run, lambda one: one.finished).state is StageState.DONE


def test_a_job_is_submitted_in_a_clean_environment(site: Site, workspace: Path) -> None:
    run = tiny_run(site, workspace)
    program = Path(run.layout.path) / "jobs/create_env.py"
    program.write_text(
        f"import os, json; open({str(workspace)!r} + '/env.json', 'w').write(json.dumps(dict(os.environ)))"
    )
    run.submit((Stage.CREATE_ENV,))
    wait_for(run, lambda one: one.view(Stage.CREATE_ENV).state is StageState.DONE)
    environment = json.loads((workspace / "env.json").read_text())
    assert "hf_of_the_developer" not in environment.values()
    assert environment["HF_ENDPOINT"] == "http://mirror.invalid"
    assert "https_proxy" not in environment
    assert environment["SLURM_JOB_ID"]


def test_a_refusal_is_told_in_slurms_words_and_ours(site: Site, workspace: Path) -> None:
    data = tiny_settings(workspace).model_dump(mode="json")
    data["resources"]["partition"] = "nowhere"
    run = create_run(site, Settings.model_validate(data))
    with pytest.raises(SchedulerError) as caught:
        run.submit()
    assert "nvalid partition" in caught.value.message
    assert "sinfo" in caught.value.hint
    view = run.snapshot().views[0]
    assert view.state is StageState.FAILED
    assert "nvalid partition" in view.reason


def test_a_controller_that_is_down_is_waited_for(
    site: Site, workspace: Path, slurm_cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before the submission and started again: nothing is lost and nothing submitted twice."""
    # An sbatch that met nobody has left nothing behind that could still turn up.
    monkeypatch.setattr(submitting, "LOOK_FOR", 4.0)
    run = tiny_run(site, workspace)
    slurm_cluster.stop_controller()
    told: list[str] = []
    submission = threading.Thread(target=run.submit, kwargs={"tell": told.append}, daemon=True)
    submission.start()
    wait_until(lambda: any("looking whether" in words for words in told), "the search for the job", 120)
    assert run.snapshot().problem
    slurm_cluster.start_controller()
    submission.join(150)
    assert not submission.is_alive()
    assert wait_for(run, lambda one: one.finished).state is StageState.DONE
    assert ran(run) == ALL


def test_two_runs_of_one_second_are_told_apart_in_the_queue(
    slurm_site: Callable[[Path], Site],
    site: Site,
    workspace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The queue knows no workspaces: a job of the same name and second must not be taken for a lost one of ours."""
    elsewhere = slurm_site(tmp_path / "elsewhere")
    moment = site.now()
    with monkeypatch.context() as clock:
        clock.setattr(site, "now", lambda: moment)
        clock.setattr(elsewhere, "now", lambda: moment + 0.0005)
        ours, theirs = tiny_run(site, workspace), tiny_run(elsewhere, tmp_path / "elsewhere")
    theirs.submit((Stage.CREATE_ENV,))
    assert theirs.run_id > ours.run_id
    assert not ours.snapshot().views[0].job_id
    assert find_job(site, comment_of(ours.run_id, Stage.CREATE_ENV, 1), 0) is None
    assert find_job(site, comment_of(theirs.run_id, Stage.CREATE_ENV, 1), 0) is not None


def test_a_restart_of_the_controller_in_mid_run_changes_nothing(
    site: Site, workspace: Path, slurm_cluster: SlurmCluster
) -> None:
    run = tiny_run(site, workspace, finetune="wait")
    run.submit()
    wait_until_runs(run, TUNE)
    slurm_cluster.stop_controller()
    snapshot = run.snapshot()
    assert snapshot.problem
    assert snapshot.view(TUNE).state is StageState.UNKNOWN
    slurm_cluster.start_controller()
    go(run, TUNE)
    snapshot = wait_for(open_run(site, run.run_id), lambda one: one.finished)
    assert snapshot.state is StageState.DONE
    assert ran(run) == ALL
