"""Runs through Direct: the queue of one machine, for real."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from llama_tui.backend.errors import RunError
from llama_tui.backend.live import LinkChanged, LiveEvent, LiveRun, LogRead, SnapshotTaken
from llama_tui.backend.runs import list_runs, open_run
from llama_tui.backend.site import Site, connect
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState
from tests.cluster import wait_until
from tests.tiny import ALL, go, ran, set_behaviour, tiny_run, wait_for, wait_until_runs

TUNE, MERGE = Stage.FINETUNE, Stage.MERGE_LORA_WEIGHTS


def test_all_seven_stages_run_in_order(site: Site, workspace: Path) -> None:
    run = tiny_run(site, workspace)
    run.submit()
    snapshot = wait_for(run, lambda one: one.finished)
    assert snapshot.state is StageState.DONE
    assert ran(run) == ALL
    assert "this is finetune" in Path(run.layout.log(TUNE, 1)).read_text()


def test_submitting_again_submits_nothing_twice(site: Site, workspace: Path) -> None:
    run = tiny_run(site, workspace)
    run.submit()
    run.submit()
    wait_for(run, lambda one: one.finished)
    run.submit()
    assert ran(run) == ALL


def test_a_failed_stage_blocks_what_follows_and_a_rerun_keeps_what_was_done(
    site: Site, workspace: Path
) -> None:
    run = tiny_run(site, workspace, finetune="3")
    run.submit()
    snapshot = wait_for(run, lambda one: one.finished)
    assert snapshot.view(TUNE).state is StageState.FAILED
    assert snapshot.view(TUNE).exit_code == 3
    assert snapshot.view(MERGE).state is StageState.BLOCKED
    set_behaviour(run, TUNE, "0")
    run.rerun(TUNE)
    snapshot = wait_for(run, lambda one: one.finished)
    assert snapshot.state is StageState.DONE
    assert ran(run) == [*ALL[:3], TUNE, *ALL[3:]]
    assert [view.attempt for view in snapshot.views] == [1, 1, 1, 2, 2, 2, 2]


def test_a_rerun_needs_the_stage_before(site: Site, workspace: Path) -> None:
    run = tiny_run(site, workspace, create_env="1")
    run.submit()
    wait_for(run, lambda one: one.finished)
    with pytest.raises(RunError) as caught:
        run.rerun(TUNE)
    assert "compile_model" in caught.value.message


def test_cancel_ends_what_runs_and_what_waits(site: Site, workspace: Path) -> None:
    run = tiny_run(site, workspace, finetune="wait")
    run.submit()
    wait_until_runs(run, TUNE)
    run.cancel()
    snapshot = wait_for(run, lambda one: one.finished)
    assert snapshot.view(TUNE).state is StageState.CANCELLED
    assert snapshot.view(Stage.COMPILE_MODEL).state is StageState.DONE
    assert Stage.MODEL_CONSOLIDATION not in ran(run)
    go(run, TUNE)
    run.rerun(TUNE)
    assert wait_for(run, lambda one: one.finished).state is StageState.DONE


def test_a_rerun_of_a_running_stage_ends_it_first(site: Site, workspace: Path) -> None:
    run = tiny_run(site, workspace, finetune="wait")
    run.submit()
    wait_until_runs(run, TUNE)
    go(run, TUNE)
    run.rerun(TUNE)
    snapshot = wait_for(run, lambda one: one.finished)
    assert snapshot.state is StageState.DONE
    assert snapshot.view(TUNE).attempt == 2


def test_the_run_goes_on_without_us_and_the_next_one_sees_it(site: Site, workspace: Path) -> None:
    run = tiny_run(site, workspace, finetune="wait")
    run.submit()
    wait_until_runs(run, TUNE)
    run_id = run.run_id
    site.close()
    other = connect(site.place)
    again = open_run(other, "latest")
    assert again.run_id == run_id
    assert again.snapshot().view(TUNE).state is StageState.RUNNING
    go(again, TUNE)
    assert wait_for(again, lambda one: one.finished).state is StageState.DONE
    assert [info.run_id for info in list_runs(other)] == [run_id]
    other.close()


def test_a_crash_between_asking_and_recording_submits_nothing_twice(site: Site, workspace: Path) -> None:
    run = tiny_run(site, workspace, create_env="wait")
    run.submit()
    journal = Path(run.layout.submitted)
    lines = journal.read_text().splitlines()
    # The crash: the last stage's answer was never written down.
    assert json.loads(lines[-1])["event"] == "submitted"
    journal.write_text("\n".join(lines[:-1]) + "\n")
    go(run, Stage.CREATE_ENV)
    open_run(site, run.run_id).submit()
    wait_for(run, lambda one: one.finished)
    assert ran(run) == ALL


def test_a_crash_in_the_middle_of_the_chain_goes_on_where_it_was(site: Site, workspace: Path) -> None:
    run = tiny_run(site, workspace)
    run.submit(tuple(ALL[:3]))
    run.submit()
    assert wait_for(run, lambda one: one.finished).state is StageState.DONE
    assert ran(run) == ALL


def test_two_people_on_one_run_submit_once(site: Site, workspace: Path) -> None:
    run = tiny_run(site, workspace)
    other_site = connect(site.place)
    other = open_run(other_site, run.run_id)
    threads = [threading.Thread(target=one.submit) for one in (run, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(run, lambda one: one.finished)
    assert ran(run) == ALL
    other_site.close()


def test_a_live_run_survives_the_death_of_its_agent(site: Site, workspace: Path) -> None:
    """Every byte of the log exactly once, the state right at the end."""
    run = tiny_run(site, workspace, finetune="wait")
    run.submit()
    wait_until_runs(run, TUNE)
    events: list[LiveEvent] = []
    connected, done = threading.Event(), threading.Event()
    connections = []

    def tell(event: LiveEvent) -> None:
        events.append(event)
        if isinstance(event, LinkChanged) and event.connected:
            connections.append(event)
            connected.set()
        if isinstance(event, SnapshotTaken) and event.snapshot.finished:
            done.set()

    live = LiveRun(site.place, run.run_id, tell)
    live.start()
    log = Path(run.layout.log(TUNE, 1))
    for number in range(5):
        assert connected.wait(60)
        connected.clear()
        if number == 0:
            live.follow_log(str(log))
        with log.open("a") as stream:
            stream.write(f"line {number}\n" * 1000)
        live.do(lambda one: one.site.link._channel.close())
    assert connected.wait(60)
    go(run, TUNE)
    assert done.wait(120)
    # What is appended last is shown last; then everything before it was.
    with log.open("a") as stream:
        stream.write("the end\n")

    def shown() -> str:
        return "".join(event.text for event in events if isinstance(event, LogRead))

    wait_until(lambda: shown().endswith("the end\n"), "the log's end", every=0.1)
    live.close()
    assert shown() == log.read_text()
    assert len(connections) == 6
