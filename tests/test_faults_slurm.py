"""What goes wrong on a cluster, made to go wrong on a real one: each row of docs/reliability.md that needs Slurm."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llama_tui.backend import runs
from llama_tui.backend.errors import AgentError
from llama_tui.backend.explain import explain
from llama_tui.backend.place import Place
from llama_tui.backend.runs import Run, create_run, open_run
from llama_tui.backend.settings import Settings
from llama_tui.backend.site import Site, connect
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState
from tests.cluster import SlurmCluster, wait_until
from tests.tiny import ALL, go, ran, set_behaviour, tiny_run, tiny_settings, wait_for, wait_until_runs

pytestmark = pytest.mark.slurm
TUNE = Stage.FINETUNE


@pytest.fixture
def site(slurm_site: Callable[[Path], Site], tmp_path: Path) -> Site:
    return slurm_site(tmp_path / "w")


def running(site: Site, tmp_path: Path) -> Run:
    """A run whose training goes on until it is let go."""
    run = tiny_run(site, tmp_path / "w", finetune="wait")
    run.submit()
    wait_until_runs(run, TUNE)
    return run


def finishes(run: Run, trained: int) -> None:
    """The run ends well, and its training ran so many times; what was done before it was kept."""
    go(run, TUNE)
    snapshot = wait_for(run, lambda one: one.finished, timeout=150)
    assert snapshot.state is StageState.DONE
    assert ran(run).count(TUNE) == trained
    assert ran(run).count(Stage.DOWNLOAD_MODEL) == 1


def test_a_requeued_job_goes_on(site: Site, tmp_path: Path, slurm_cluster: SlurmCluster) -> None:
    """Preemption and `scontrol requeue` end the script with a status file: that is not the end of the stage."""
    run = running(site, tmp_path)
    job = run.snapshot().view(TUNE).job_id
    slurm_cluster.run("scontrol", "requeue", job, check=True)
    snapshot = wait_for(run, lambda one: one.view(TUNE).state is StageState.PENDING)
    assert snapshot.view(Stage.INFERENCE).state is StageState.PENDING
    assert not snapshot.finished
    slurm_cluster.start_requeued(job)
    wait_for(run, lambda _: ran(run).count(TUNE) == 2, timeout=150)
    finishes(run, 2)


def test_a_node_that_dies_gives_its_job_to_another(
    site: Site, tmp_path: Path, slurm_cluster: SlurmCluster
) -> None:
    run = running(site, tmp_path)
    job = run.snapshot().view(TUNE).job_id
    node = slurm_cluster.job(job)["NodeList"]
    try:
        slurm_cluster.kill_node(node)
        wait_for(run, lambda one: one.view(TUNE).state is StageState.PENDING or ran(run).count(TUNE) == 2)
        slurm_cluster.start_requeued(job)
        wait_for(run, lambda _: ran(run).count(TUNE) == 2, timeout=150)
        finishes(run, 2)
    finally:
        slurm_cluster.start_node(node)


def test_the_time_limit(site: Site, tmp_path: Path, slurm_cluster: SlurmCluster) -> None:
    data = tiny_settings(tmp_path / "w").model_dump(mode="json")
    data["resources"]["time_limit"] = "1"
    made = tiny_run(site, tmp_path / "w", finetune="wait")
    run = Run(site, replace(made.plan, settings=Settings.model_validate(data)))
    run.submit()
    wait_until_runs(run, TUNE)
    job = run.snapshot().view(TUNE).job_id
    assert slurm_cluster.job(job)["TimeLimit"] == "00:01:00"
    # The rest of the minute need not be waited for.
    slurm_cluster.run("scontrol", "update", f"JobId={job}", "EndTime=now+1seconds", check=True)
    snapshot = wait_for(run, lambda one: one.finished)
    view = snapshot.view(TUNE)
    assert view.state is StageState.FAILED
    assert "TimeLimit" in view.reason
    assert explain(run, snapshot, TUNE).kind == "time_limit"
    set_behaviour(run, TUNE, "0")
    run.rerun(TUNE)
    finishes(run, 2)


def test_a_status_file_cut_short_is_no_verdict(site: Site, tmp_path: Path) -> None:
    run = running(site, tmp_path)
    file = Path(run.layout.status(TUNE))
    file.write_text(file.read_text()[:40])
    assert run.snapshot().view(TUNE).state is StageState.RUNNING
    finishes(run, 1)


def test_kill_9_of_the_script_alone(site: Site, tmp_path: Path, slurm_cluster: SlurmCluster) -> None:
    """The script leaves no last word; the scheduler knows the job's end."""
    run = running(site, tmp_path)
    job = run.snapshot().view(TUNE).job_id
    slurm_cluster.run("scancel", "--signal=KILL", "--full", job, check=True)
    snapshot = wait_for(run, lambda one: one.finished)
    assert snapshot.view(TUNE).state in {StageState.FAILED, StageState.CANCELLED}
    run.rerun(TUNE)
    wait_for(run, lambda _: ran(run).count(TUNE) == 2)
    finishes(run, 2)


def test_kill_9_of_the_program_in_the_middle_of_a_submission(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A little after each of ten lines of the journal; opened again, the run goes on: none lost, none submitted twice."""
    # An sbatch that has no job after so long will have none here.
    monkeypatch.setattr(runs, "LOOK_FOR", 10.0)
    killed = []
    for lines in range(10):
        run = tiny_run(site, tmp_path / "w")
        code = (
            "from llama_tui.backend.site import *; from llama_tui.backend.runs import *; import sys\n"
            "open_run(connect(Place(sys.argv[1])), sys.argv[2]).submit()"
        )
        process = subprocess.Popen([sys.executable, "-c", code, site.workspace.path, run.run_id])
        journal = Path(run.layout.submitted)
        wait_until(
            lambda journal=journal, lines=lines: (  # type: ignore[misc]
                lines == 0 or (journal.exists() and journal.read_text().count("\n") >= lines)
            ),
            f"line {lines} of the journal",
            every=0.002,
        )
        time.sleep(random.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        again = open_run(site, run.run_id)
        again.submit()
        killed.append(again)
    for again in killed:
        assert wait_for(again, lambda one: one.finished).state is StageState.DONE
        assert ran(again) == ALL


def test_a_run_directory_of_another_version_is_shown_as_far_as_it_goes(site: Site, tmp_path: Path) -> None:
    """Unknown keys in status files and journals are passed over; settings that we do not know are told."""
    run = tiny_run(site, tmp_path / "w")
    run.submit()
    wait_for(run, lambda one: one.finished)
    file = Path(run.layout.status(TUNE))
    file.write_text(file.read_text().replace('"stage"', '"new_key": {"x": 1}, "stage"'))
    with Path(run.layout.submitted).open("a") as journal:
        journal.write(
            '{"time": 1, "event": "something new", "stage": "finetune", "attempt": 1, "more": []}\n'
        )
    assert run.snapshot().state is StageState.DONE


def test_a_workspace_without_room_is_told_by_the_host(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("a file system of its own needs root")
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("no tmpfs can be mounted here")
    tiny_place = connect(Place(str(small / "w")))
    try:
        with pytest.raises(AgentError) as caught:
            create_run(tiny_place, tiny_settings(small / "w"))
        assert caught.value.kind == "full"
        assert "space" in caught.value.hint
    finally:
        tiny_place.close()
        # The agent may still be writing what it was asked for last.
        wait_until(lambda: subprocess.run(["umount", str(small)]).returncode == 0, "the agent's end")


def test_accounts_tell_how_jobs_ended_that_left_the_queue(
    slurm_cluster_accounting: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With slurmdbd (skipped where MariaDB is not installed): the words behind an exit code that says nothing."""
    cluster = slurm_cluster_accounting
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    site = connect(Place(str(tmp_path / "w")))
    try:
        run = tiny_run(site, tmp_path / "w", finetune="3")
        run.submit()
        snapshot = wait_for(run, lambda one: one.view(TUNE).state is StageState.FAILED)
        other = tiny_run(site, tmp_path / "w", create_env="wait")
        other.submit((Stage.CREATE_ENV,))
        wait_until_runs(other, Stage.CREATE_ENV)
        other.cancel()
        cancelled = wait_for(other, lambda one: one.view(Stage.CREATE_ENV).state is StageState.CANCELLED)
        ids = [snapshot.views[0].job_id, snapshot.view(TUNE).job_id, cancelled.views[0].job_id]
        deadline = time.monotonic() + 60
        while len(endings := site.scheduler.endings(ids)) < 3 or not {"RUNNING", "PENDING"}.isdisjoint(
            one.word for one in endings.values()
        ):
            assert time.monotonic() < deadline, endings
            time.sleep(0.5)
        words = [endings[job].word.split(" ")[0] for job in ids]
        assert words == ["COMPLETED", "FAILED", "CANCELLED"]
        assert endings[ids[1]].exit_code == 3
    finally:
        run.cancel()
        site.close()
