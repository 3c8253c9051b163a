"""What the monitor and its queue pane ask of a real Slurm of two nodes, and when they ask nothing."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_tui.backend.errors import SchedulerError
from llama_tui.backend.runs import open_run
from llama_tui.backend.site import Site, connect
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState
from llama_tui.tui.widgets.queue_table import QueueTable
from tests.cluster import SlurmCluster
from tests.pilot import text_of, until
from tests.test_rest import Watching
from tests.test_tui_monitor import app_on, monitor
from tests.tiny import go, set_behaviour, tiny_run, wait_for

pytestmark = pytest.mark.slurm
# Longer than the longest pause between two questions while something goes on.
LONG = 10.0


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Counter[str]]:
    """How often each of Slurm's commands was called."""
    log, folder = tmp_path / "commands", tmp_path / "counting"
    folder.mkdir()
    log.touch()
    for name in ("squeue", "sinfo", "sacct", "scontrol", "sbatch", "scancel"):
        program = folder / name
        program.write_text(f'#!/bin/sh\necho {name} >> "{log}"\nexec {shutil.which(name)} "$@"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return lambda: Counter(log.read_text().split())


@pytest.fixture
def site(commands: Callable[[], Counter[str]], slurm_site: Callable[[Path], Site], tmp_path: Path) -> Site:
    del commands  # Before the agent is started: it passes on where the commands are.
    return slurm_site(tmp_path / "workspace")


def test_everyones_jobs_one_jobs_details_and_the_nodes(site: Site) -> None:
    options = ["--parsable", "--job-name=of somebody", "--output=/dev/null", "--wrap", "sleep 60"]
    job_id = site.link.run(["sbatch", *options]).stdout.strip()
    deadline = time.monotonic() + 60
    while not any(job.id == job_id and job.word == "RUNNING" for job in site.scheduler.everyone()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    job = next(job for job in site.scheduler.everyone() if job.id == job_id)
    assert (job.name, job.user) == ("of somebody", "root")
    detail = site.scheduler.detail(job_id)
    assert f"JobId={job_id}" in detail
    assert "TimeLimit=" in detail
    nodes = site.scheduler.nodes()
    assert ": " in nodes
    assert sum(int(word) for word in nodes.replace(",", "").replace(";", "").split() if word.isdecimal()) >= 2
    site.scheduler.cancel([job_id])
    while any(job.id == job_id for job in site.scheduler.everyone()):
        assert time.monotonic() < deadline + 60
        time.sleep(0.2)


def test_a_job_that_is_not_there_is_told_in_slurms_words(site: Site) -> None:
    with pytest.raises(SchedulerError, match="Invalid job id"):
        site.scheduler.detail("99999999")


async def test_a_finished_runs_monitor_asks_nothing_until_something_happens(
    site: Site, commands: Callable[[], Counter[str]], tmp_path: Path
) -> None:
    run = tiny_run(site, tmp_path / "workspace", finetune="3")
    run.submit()
    wait_for(run, lambda one: one.finished and one.state is StageState.FAILED)
    app = app_on(run)
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: bool(app.screen.query("#nodes")))
        await until(pilot, lambda: all(words in text_of(app, "#nodes") for words in ("as of", "idle")))
        asked = commands()
        await pilot.pause(LONG)
        assert commands() == asked
        # A person who chooses what to see is answered, once.
        await pilot.press("m")
        await until(pilot, lambda: (commands() - asked).keys() == {"squeue", "sinfo"})
        await until(pilot, lambda: "as of" in text_of(app, "#nodes"))
        # Somebody else, at another screen.
        elsewhere = connect(site.place)
        set_behaviour(run, Stage.FINETUNE, "wait")
        open_run(elsewhere, run.run_id).rerun(Stage.FINETUNE)
        await until(pilot, lambda: monitor(app).snapshot.view(Stage.FINETUNE).state is StageState.RUNNING)  # type: ignore[union-attr]
        assert "as of" not in text_of(app, "#nodes")
        table = app.screen.query_one(QueueTable)
        await until(
            pilot, lambda: "RUNNING" in {str(table.get_row(row.key)[1]) for row in table.ordered_rows}
        )
        go(run, Stage.FINETUNE)
        await until(pilot, lambda: "as of" in text_of(app, "#nodes"))
        assert monitor(app).snapshot.state is StageState.DONE  # type: ignore[union-attr]
        elsewhere.close()


def test_a_job_that_is_requeued_by_hand_while_nothing_is_asked_is_seen(
    site: Site, slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    run = tiny_run(site, tmp_path / "workspace", finetune="3")
    run.submit()
    wait_for(run, lambda one: one.finished and one.state is StageState.FAILED)
    watching = Watching(run)
    job = watching.until(lambda one: one.resting).view(Stage.FINETUNE).job_id
    set_behaviour(run, Stage.FINETUNE, "wait")
    slurm_cluster.run("scontrol", "requeue", job, check=True)
    slurm_cluster.start_requeued(job)
    again = watching.until(lambda one: one.view(Stage.FINETUNE).state is StageState.RUNNING)
    assert again.view(Stage.FINETUNE).job_id == job
    go(run, Stage.FINETUNE)
    watching.until(lambda one: one.view(Stage.FINETUNE).state is StageState.DONE)
    watching.monitor.stop()
    run.cancel()


async def test_a_run_that_goes_on_is_asked_for_twelve_times_a_minute_at_most(
    site: Site, commands: Callable[[], Counter[str]], tmp_path: Path
) -> None:
    run = tiny_run(site, tmp_path / "workspace", create_env="wait")
    run.submit()
    app = app_on(run)
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: bool(app.screen.query("#nodes")) and ": " in text_of(app, "#nodes"))
        await until(pilot, lambda: monitor(app).snapshot.view(Stage.CREATE_ENV).state is StageState.RUNNING)  # type: ignore[union-attr]
        await until(pilot, lambda: "RUNNING" in str(app.screen.query_one(QueueTable).get_row_at(0)[1]))
        asked, began = commands().total(), time.monotonic()
        await pilot.pause(LONG)
        looked = time.monotonic() - began
        assert 1 <= commands().total() - asked <= 12 * looked / 60 + 1
    run.cancel()
