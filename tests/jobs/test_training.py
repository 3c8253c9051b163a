"""Stage 3 on the CPU: what it leaves, and what survives every way of being stopped."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.jobs.conftest import Bench, losses, metrics, wait_for

pytestmark = pytest.mark.ml


def test_training_learns_and_leaves_what_the_next_stages_need(trained: tuple[Bench, Path]) -> None:
    _, run = trained
    curve = losses(run)
    assert sorted(curve) == list(range(1, 13))
    assert curve[12] < curve[1] - 0.5
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept == ["checkpoint-12", "checkpoint-8"]
    shards = sorted((run / "checkpoints/checkpoint-12/adapter_default/adapter_shards/model").iterdir())
    assert [path.name for path in shards] == [f"dp_rank_00_tp_rank_0{rank}_pp_rank_00.pt" for rank in (0, 1)]
    report = json.loads((run / "reports/finetune.json").read_text())
    assert report["steps"] == 12 and report["replica_difference"]["max"] == 0.0
    line = metrics(run)[-1]
    assert {"time", "attempt", "step", "max_steps", "epoch", "loss", "learning_rate", "grad_norm"} <= set(
        line
    )
    assert {"tokens_per_second", "step_seconds"} <= set(line)


def test_killed_in_mid_training_it_goes_on_as_if_nothing_had_been(bench: Bench) -> None:
    whole, killed = bench.run_dir("whole"), bench.run_dir("killed")
    long = {"max_steps": 60, "save_steps": 4, "save_total_limit": 3}
    assert bench.run("launch.py", *bench.train(whole, **long)).returncode == 0

    process = bench.start("launch.py", *bench.train(killed, **long), log=bench.root / "log")
    wait_for(lambda: len(losses(killed)) >= 10)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = max(losses(killed))
    assert before < 60, "it had ended before it was killed: the test shows nothing"

    again = bench.run("launch.py", *bench.train(killed, **long))
    assert again.returncode == 0, again.stderr
    resumed = next(line["step"] for line in metrics(killed) if line.get("event") == "resumed")
    assert resumed % 4 == 0 and 0 < resumed <= before
    assert losses(killed) == losses(whole)


def test_a_damaged_checkpoint_is_passed_over(bench: Bench) -> None:
    run = bench.run_dir()
    first = bench.run("launch.py", *bench.train(run, max_steps=8))
    assert first.returncode == 0, first.stderr
    expected = losses(run)
    shard = next((run / "checkpoints/checkpoint-8").rglob("dp_rank_00_tp_rank_01_pp_rank_00.pt"))
    shard.write_bytes(shard.read_bytes()[:-100])
    again = bench.run("launch.py", *bench.train(run, max_steps=8))
    assert again.returncode == 0, again.stderr
    assert "passing over checkpoint-8" in again.stdout and "resumed from checkpoint-4" in again.stdout
    assert losses(run) == expected


def test_other_settings_do_not_go_on_from_a_checkpoint(bench: Bench, trained: tuple[Bench, Path]) -> None:
    run = bench.run_dir()
    shutil.copytree(trained[1] / "checkpoints", run / "checkpoints")
    refused = bench.run("launch.py", *bench.train(run, learning_rate=0.02, max_steps=14))
    assert refused.returncode == 1
    assert "was trained with learning_rate 0.01, the settings now say 0.02" in refused.stderr
    assert refused.stderr.count("error:") == 1 and "Traceback" not in refused.stderr


def test_sigterm_ends_in_a_checkpoint_and_143(bench: Bench) -> None:
    run = bench.run_dir()
    process = bench.start(
        "launch.py", *bench.train(run, max_steps=5000, save_steps=5000), log=bench.root / "log"
    )
    wait_for(lambda: len(losses(run)) >= 3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=150) == 143
    log = (bench.root / "log").read_text()
    assert "Traceback" not in log
    (saved,) = (run / "checkpoints").iterdir()
    assert (saved / "adapter_default/adapter_shards/done").is_file()
    assert saved.name == f"checkpoint-{max(losses(run))}"
    resumed = bench.run("launch.py", *bench.train(run, max_steps=max(losses(run)) + 1, save_steps=5000))
    assert resumed.returncode == 0 and f"resumed from {saved.name}" in resumed.stdout


def test_one_process_that_is_told_stops_all_after_the_same_step(bench: Bench) -> None:
    run = bench.run_dir()
    process = bench.start(
        "launch.py", *bench.train(run, max_steps=5000, save_steps=5000), log=bench.root / "log"
    )
    wait_for(lambda: len(losses(run)) >= 3)
    # torchrun tells them one after another: what lies between must not part them.
    os.kill(_worker(process.pid, rank=1), signal.SIGTERM)
    assert process.wait(timeout=150) == 143
    log = (bench.root / "log").read_text()
    assert "Traceback" not in log and "stopped by SIGTERM" in log
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"checkpoint-{max(losses(run))}"]


def _worker(launcher: int, rank: int) -> int:
    """The process that trains as this rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    (worker,) = [
        int(pid) for pid in children if f"\0RANK={rank}\0" in "\0" + Path(f"/proc/{pid}/environ").read_text()
    ]
    return worker


def test_a_loss_that_is_no_number_fails_in_words(bench: Bench) -> None:
    run = bench.run_dir()
    failed = bench.run("launch.py", *bench.train(run, learning_rate=1e30, warmup_steps=0))
    assert failed.returncode == 1
    assert "training went wrong at step" in failed.stderr and "learning_rate" in failed.stderr
    assert failed.stderr.count("error:") == 1 and "Traceback" not in failed.stderr
    assert all(line["loss"] == line["loss"] for line in metrics(run))


def test_a_rehearsal_estimates_and_keeps_nothing(bench: Bench) -> None:
    run = bench.run_dir()
    report = run / "reports/compile_model.json"
    done = bench.run("launch.py", *bench.train(run, rehearse=2, report=report)[:-2])
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    assert found["steps_rehearsed"] == 2 and found["estimate"]["steps"] == 12
    assert found["seconds_per_step"] > 0 and found["peak_memory_bytes"] > 1e8
    assert not (run / "checkpoints").exists() and not (run / "metrics.jsonl").exists()


def test_missing_input_names_the_stage_that_makes_it(bench: Bench) -> None:
    (bench.model / ".complete").unlink()
    failed = bench.run("launch.py", *bench.train(bench.run_dir()))
    assert failed.returncode == 1 and "run download_model first" in failed.stderr
    assert failed.stderr.count("error:") == 1 and "Traceback" not in failed.stderr
