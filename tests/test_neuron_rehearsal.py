"""A dress rehearsal of the neuron stack's scripts on a real Slurm of two nodes. No chip, no Neuron package, no training.

The sbatch scripts, launch.py, compile_model.py, create_env.py, download_model.py and stages 4 to 6 are the real ones,
unchanged; the processes of each node really meet through torch's elastic launcher. neuron-ls, neuron_parallel_compile
and the training's worker are stand-ins (tests/neuron_standins), in the environment of this test's cluster only.
So it tests control flow: who meets where, what is reported, what happens after a failure. It says nothing of Trainium.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_tui.backend.runs import Run, create_run
from llama_tui.backend.settings import Settings, Stack, defaults
from llama_tui.backend.site import Site
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState
from tests.cluster import SlurmCluster
from tests.jobs.conftest import FIXTURES, make_dataset, make_model
from tests.neuron_standins import make_environment, make_node_programs, put_in
from tests.tiny import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.ml, pytest.mark.timeout(600)]
TUNE, COMPILE = Stage.FINETUNE, Stage.COMPILE_MODEL
UP_TO_TRAINING = (Stage.CREATE_ENV, Stage.DOWNLOAD_MODEL, COMPILE, TUNE)
PATIENCE = 200


@pytest.fixture(scope="module")
def trainium(cpu_env: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the environment, the node's programs, a model and a data set."""
    folder = tmp_path_factory.mktemp("trainium")
    make_environment(folder / "aws_neuronx_venv", cpu_env)
    make_node_programs(folder / "bin")
    make_model(folder / "model")
    (folder / "model/.complete").unlink()
    make_dataset(folder / "data")
    return folder


@pytest.fixture
def site(
    slurm_site: Callable[[Path], Site], trainium: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Site:
    monkeypatch.setenv("PATH", f"{trainium / 'bin'}:{os.environ['PATH']}")
    return slurm_site(tmp_path / "w")


def settings_of(trainium: Path, workspace: Path, nodes: int) -> Settings:
    data: dict[str, Any] = defaults(Stack.NEURON).model_dump(mode="json")
    data["name"] = "rehearsal"
    data["model"] |= {
        "model": str(trainium / "model"),
        "dataset": str(trainium / "data/train.jsonl"),
        "held_out": 8,
    }
    data["paths"] |= {"workspace": str(workspace), "environment": str(trainium / "aws_neuronx_venv")}
    data["training"] |= {"sequence_length": 128, "tensor_parallel": 2, "max_steps": 8, "warmup_steps": 2}
    data["resources"] |= {"nodes": nodes, "processes_per_node": 2, "time_limit": "10:00"}
    data["inference"] |= {"prompts": ["Who are you?"], "max_new_tokens": 4}
    return Settings.model_validate(data)


def rehearsal(site: Site, trainium: Path, tmp_path: Path, nodes: int = 2, behave: str = "") -> Run:
    """A run that is made, with the stand-in for the training's worker; not submitted."""
    run = create_run(site, settings_of(trainium, tmp_path / "w", nodes))
    folder = Path(run.layout.path)
    put_in(folder)
    (folder / "behave/checkpoint").write_text(str(FIXTURES / "tp2"))
    if behave:
        (folder / "behave/finetune").write_text(behave)
    return run


def log_of(run: Run, stage: Stage, attempt: int = 1) -> str:
    return Path(run.layout.log(stage, attempt)).read_text()


def report_of(run: Run, stage: Stage) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(run.layout.path) / f"reports/{stage}.json").read_text())
    return found


def meetings(run: Run, kind: str) -> list[list[dict[str, str]]]:
    """Who met, once for each time that all processes came together."""
    return [
        json.loads(path.read_text()) for path in sorted((Path(run.layout.path) / "met").glob(f"{kind}.*"))
    ]


def test_all_seven_stages_on_two_nodes(site: Site, trainium: Path, tmp_path: Path) -> None:
    run = rehearsal(site, trainium, tmp_path)
    run.submit()
    snapshot = wait_for(run, lambda one: one.finished, timeout=PATIENCE)
    assert snapshot.state is StageState.DONE, [
        (view.stage, view.state, view.reason) for view in snapshot.views
    ]
    for kind in ("compile", "train"):
        (met,) = meetings(run, kind)
        assert [one["RANK"] for one in met] == ["0", "1", "2", "3"]
        assert sorted({one["SLURMD_NODENAME"] for one in met}) == ["trn1-1", "trn1-2"]
        assert [one["LOCAL_RANK"] for one in met] == ["0", "1", "0", "1"]
        assert len({(one["MASTER_ADDR"], one["MASTER_PORT"]) for one in met}) == 1
        assert {one["TORCHELASTIC_RUN_ID"] for one in met} == {met[0]["SLURM_JOB_ID"]}
        assert all("--target=trn1 " in one["NEURON_CC_FLAGS"] and one["FI_PROVIDER"] == "efa" for one in met)
    made = report_of(run, Stage.CREATE_ENV)
    assert made["versions"]["optimum.neuron"] == "stand-in" and "32 GB" in made["devices"]
    compiled = report_of(run, COMPILE)
    assert (compiled["graphs"], compiled["compiled"], compiled["failed"]) == (2, 2, 0)
    assert compiled["arguments"]["processes"] == 4
    assert "2 of 2 graphs compiled, 0 left" in log_of(run, COMPILE)
    trained = report_of(run, TUNE)
    assert (trained["cache_hits"], trained["cache_misses"], trained["resumed_from"]) == (2, 0, None)
    assert report_of(run, Stage.MODEL_CONSOLIDATION)["tensors"] == 28
    assert (Path(run.layout.path) / "comparison.json").exists()


def test_a_failed_graph_fails_the_stage_although_the_compiler_ends_with_0(
    site: Site, trainium: Path, tmp_path: Path
) -> None:
    run = rehearsal(site, trainium, tmp_path)
    cache = tmp_path / "w/cache/neuron"
    cache.mkdir(parents=True)
    (cache / "refused").write_text("MODULE_2128+e30acd3a")
    run.submit(UP_TO_TRAINING)
    snapshot = wait_for(run, lambda one: one.view(COMPILE).state is StageState.FAILED, timeout=PATIENCE)
    assert snapshot.view(COMPILE).exit_code == 1
    said = log_of(run, COMPILE)
    assert "error: 1 of 2 graphs failed to compile (MODULE_2128+e30acd3a)" in said
    assert "[LUR015]  Compiler generated too many instructions" in said.partition("error: 1 of 2")[2]
    report = report_of(run, COMPILE)
    assert (report["exit_code"], report["failed"]) == (0, 1)
    assert meetings(run, "train") == []


def test_a_worker_that_fails_is_told_and_a_rerun_goes_on(site: Site, trainium: Path, tmp_path: Path) -> None:
    """Rank 1 fails at step 3: the launchers of both nodes end, and the rerun begins at checkpoint-2."""
    run = rehearsal(site, trainium, tmp_path, behave="fail")
    run.submit(UP_TO_TRAINING)
    snapshot = wait_for(run, lambda one: one.view(TUNE).state is StageState.FAILED, timeout=PATIENCE)
    status = json.loads(Path(run.layout.status(TUNE)).read_text())
    assert (status["exit_code"], status["signal"]) == (1, None)
    assert "error: NRT: nrt_infodump" in log_of(run, TUNE)
    (Path(run.layout.path) / "behave/finetune").write_text("")
    run.rerun(TUNE)
    snapshot = wait_for(run, lambda one: one.finished, timeout=PATIENCE)
    assert snapshot.view(TUNE).state is StageState.DONE
    assert "resuming from checkpoint-2" in log_of(run, TUNE, 2)
    assert report_of(run, TUNE)["resumed_from"] == 2
    assert len(meetings(run, "train")) == 2


def test_sigterm_and_requeue_end_in_a_checkpoint_and_go_on(
    site: Site, trainium: Path, tmp_path: Path, slurm_cluster: SlurmCluster
) -> None:
    """Preemption: Slurm's own SIGTERM through srun to both nodes, a checkpoint, the same job again, all meet anew."""
    run = rehearsal(site, trainium, tmp_path, behave="wait")
    run.submit(UP_TO_TRAINING)
    wait_for(
        run, lambda _: bool(meetings(run, "train")) and '"step": 3' in log_of(run, TUNE), timeout=PATIENCE
    )
    job = run.snapshot().view(TUNE).job_id
    slurm_cluster.run("scontrol", "requeue", job, check=True)
    wait_for(run, lambda _: "checkpoint-4 saved" in log_of(run, TUNE))
    (Path(run.layout.path) / "behave/go").touch()
    slurm_cluster.wait_job(job, "PENDING")
    slurm_cluster.start_requeued(job)
    snapshot = wait_for(run, lambda one: one.view(TUNE).state is StageState.DONE, timeout=PATIENCE)
    assert snapshot.view(TUNE).job_id == job and snapshot.view(TUNE).attempt == 1
    assert "resuming from checkpoint-4" in log_of(run, TUNE)
    assert report_of(run, TUNE)["resumed_from"] == 4
    assert len(meetings(run, "train")) == 2


def test_scancel_on_one_node_ends_in_a_checkpoint_with_143(
    site: Site, trainium: Path, tmp_path: Path, slurm_cluster: SlurmCluster
) -> None:
    run = rehearsal(site, trainium, tmp_path, nodes=1, behave="wait")
    run.submit(UP_TO_TRAINING)
    wait_for(
        run, lambda _: bool(meetings(run, "train")) and '"step": 3' in log_of(run, TUNE), timeout=PATIENCE
    )
    slurm_cluster.run("scancel", run.snapshot().view(TUNE).job_id, check=True)
    snapshot = wait_for(run, lambda one: one.view(TUNE).state is StageState.CANCELLED)
    assert "checkpoint-4 saved" in log_of(run, TUNE)
    status = json.loads(Path(run.layout.status(TUNE)).read_text())
    assert (status["exit_code"], status["signal"]) == (143, "TERM")
    assert snapshot.view(TUNE).attempt == 1


def test_other_shapes_than_stage_2_compiled_are_named(site: Site, trainium: Path, tmp_path: Path) -> None:
    """The training's script is changed by hand after the compilation: a miss, and its reason."""
    run = rehearsal(site, trainium, tmp_path, nodes=1)
    run.submit(UP_TO_TRAINING[:3])
    wait_for(run, lambda one: one.view(COMPILE).state is StageState.DONE, timeout=PATIENCE)
    run.plan.settings.training.sequence_length = 256
    run.submit((TUNE,))
    wait_for(run, lambda one: one.view(TUNE).state is StageState.DONE, timeout=PATIENCE)
    assert report_of(run, TUNE)["differences"] == ["sequence_length was 128 in stage 2 and is 256 here"]
    assert "warning: 2 graphs were not in the compile cache" in log_of(run, TUNE)
