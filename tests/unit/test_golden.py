"""The golden scripts: what is rendered is what was looked at, and bash, shellcheck and a real sbatch take it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_tui.backend.catalog.machines import machines
from llama_tui.backend.catalog.models import models
from llama_tui.backend.layouts import Severity, layout_findings
from llama_tui.backend.link import CommandResult
from llama_tui.backend.render import plan_run, render_script
from llama_tui.backend.schedulers.slurm import refusal
from llama_tui.backend.stages import Stage
from tests.cluster import SlurmCluster, missing_programs
from tests.cluster_accounting import APT_LINE, PROGRAMS
from tests.golden import FOLDER, GOLDEN, Golden, golden_scripts, neuron_settings

NAMES = sorted(golden_scripts())


def kept(name: str) -> str:
    return (FOLDER / name).read_text()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_rendered_is_what_was_looked_at(name: str) -> None:
    assert golden_scripts()[name] == kept(name), "wanted? then: python -m tests.golden, and read git diff"


def test_no_golden_script_is_left_over() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.sbatch")) == NAMES


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
def test_the_layouts_are_ones_that_work(golden: Golden) -> None:
    settings = golden.settings
    machine = machines()[settings.resources.machine.value]
    found = layout_findings(settings, models()[settings.model.model], machine)
    assert [finding.reason for finding in found if finding.severity is Severity.ERROR] == []


def test_bash_and_shellcheck_take_them() -> None:
    paths = [str(FOLDER / name) for name in NAMES]
    for path in paths:
        subprocess.run(["bash", "-n", path], check=True)
    shellcheck = str(Path(sys.executable).with_name("shellcheck"))
    answer = subprocess.run([shellcheck, *paths], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout


def test_what_differs_from_machine_to_machine() -> None:
    one, trn1n, trn2, two = (
        kept(f"{name}.finetune.sbatch")
        for name in ("8b-trn1", "70b-4-trn1n", "8b-trn2", "8b-hyperpod-2-trn1")
    )
    assert "--target=trn1 " in one and "--standalone" in one and "srun --nodes" not in one
    assert "FI_PROVIDER" not in one and "--nproc_per_node=32" in one
    assert "--target=trn1n " in trn1n and "16 EFA interfaces" in trn1n and "--nnodes=4" in trn1n
    assert "--target=trn2 --lnc=2" in trn2 and "NEURON_LOGICAL_NC_CONFIG=2" in trn2
    assert "--nproc_per_node=64" in trn2 and "NEURON_LOGICAL_NC_CONFIG" not in one + trn1n
    assert "FI_PROVIDER=efa" in two and "8 EFA interfaces" in two and "--rdzv_backend=c10d" in two


# --- HyperPod's auto-resume: the script decides when it runs

_SRUN = """#!/bin/sh
if [ "$1" = --help ]; then
    echo "      --nodes=N  nodes to run on"
    {help}
    exit 0
fi
echo srun "$@"
"""


@pytest.mark.parametrize("golden", ["8b-trn1", "8b-hyperpod-2-trn1"])
@pytest.mark.parametrize(
    ("agent", "known"),
    [(True, True), (True, False), (False, True), (False, False)],
    ids=["hyperpod", "hyperpod-old-srun", "srun-alone", "plain"],
)
def test_auto_resume_is_asked_for_where_it_is_known(
    golden: str, agent: bool, known: bool, tmp_path: Path
) -> None:
    """A stand-in srun and python print how they were started; HyperPod's directory is looked for elsewhere."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    help_line = 'echo "      --auto-resume=0|1  HyperPod"' if known else ":"
    _program(bin_dir / "srun", _SRUN.format(help=help_line))
    hosts = 'case "$*" in *hostnames*) echo node-1;; *) echo "NodeName=node-1 NodeAddr=10.0.0.1 X=y";; esac'
    _program(bin_dir / "scontrol", f"#!/bin/sh\n{hosts}\n")
    _program(bin_dir / "python", '#!/bin/sh\necho "$0" "$@"\n')
    if agent:
        (tmp_path / "sagemaker_cluster").mkdir()
    text = kept(f"{golden}.finetune.sbatch")
    launch = text[text.index("# launch.py is torchrun") :]
    launch = launch.replace("/opt/sagemaker_cluster", str(tmp_path / "sagemaker_cluster"))
    before = f'set -eu\nENV_DIR={tmp_path} RUN_DIR=/run MODEL_DIR=/m DATASET_DIR=/d\nrun() {{ "$@"; }}\n'
    environment = {
        "PATH": f"{bin_dir}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "40123",
        "SLURM_JOB_NODELIST": "node-[1-2]",
    }
    answer = subprocess.run(
        ["bash", "-c", before + launch], env=environment, capture_output=True, text=True, check=True
    )
    started = answer.stdout.split()
    assert ("--auto-resume=1" in started) is (agent and known)
    assert (started[0] == "srun") is (golden != "8b-trn1" or (agent and known))
    assert started.count("srun") <= 1
    assert "/run/jobs/finetune.py" in started and f"{tmp_path}/bin/python" in answer.stdout
    if golden != "8b-trn1":
        assert "--rdzv_endpoint=10.0.0.1:20123" in started and "--ntasks-per-node=1" in started


@pytest.mark.parametrize("told", [False, True], ids=["a-node-failed", "sigterm"])
def test_srun_ends_with_143_for_two_reasons(told: bool, tmp_path: Path) -> None:
    """When one node fails, srun ends the others with SIGTERM and passes on their 143: that is no preemption."""
    plan = plan_run(neuron_settings(nodes=2), str(tmp_path), "one")
    for needed in (plan.env_marker, f"{plan.model_dir}/.complete", f"{plan.dataset_dir}/.complete"):
        Path(needed).parent.mkdir(parents=True, exist_ok=True)
        Path(needed).touch()
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    srun = "trap 'kill $!; exit 143' TERM; sleep 300 & echo ready; wait" if told else "echo ready; exit 143"
    _program(bin_dir / "srun", f"#!/bin/sh\n{srun}\n")
    _program(bin_dir / "scontrol", "#!/bin/sh\necho NodeName=node-1 NodeAddr=10.0.0.1 X=y\n")
    script = tmp_path / "script"
    script.write_text(render_script(plan, Stage.FINETUNE, 1))
    environment = {"PATH": f"{bin_dir}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n"}
    with subprocess.Popen(
        ["bash", str(script)], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "ready\n":
            pass
        if told:
            process.terminate()
        code = process.wait(60)
    status = json.loads(Path(plan.layout.status(Stage.FINETUNE)).read_text())
    expected = (143, "TERM") if told else (1, None)
    assert (code, status["signal"]) == expected
    assert status["exit_code"] == code


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


# --- a real sbatch


def asked(cluster: SlurmCluster, script: str) -> CommandResult:
    done = cluster.run("sbatch", "--test-only", stdin=script)
    return CommandResult(done.returncode, done.stdout, done.stderr)


def trimmed(name: str) -> str:
    """A golden script as the test cluster can take it: without the names that only its own site has."""
    foreign = r"#SBATCH --(partition|account|qos|reservation|constraint|exclude)=.*\n"
    return re.sub(foreign, "", kept(name))


@pytest.mark.slurm
@pytest.mark.parametrize("name", NAMES)
def test_sbatch_takes_them(name: str, slurm_cluster: SlurmCluster) -> None:
    """Four nodes are more than the test cluster has: that, and nothing else, is what it refuses there."""
    answer = asked(slurm_cluster, trimmed(name))
    if name.startswith("70b-4"):
        assert answer.exit != 0
        told = refusal("sbatch", answer)
        assert "nodes" in told.hint, told.message
        answer = asked(slurm_cluster, trimmed(name).replace("#SBATCH --nodes=4", "#SBATCH --nodes=2"))
    assert answer.exit == 0, answer.stderr
    assert "to start at" in answer.stderr


ACCEPTED: list[dict[str, Any]] = [
    {"partition": "dev"},
    {"account": "research"},
    {"qos": "high"},
    {"time_limit": "1-12:00:00"},
    {"exclude": "trn1-1"},
    {"exclusive": False},
    {"extra": ["--mail-type=END", "--mail-user=me@site.org", "--nice=5"]},
]
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"partition": "nowhere"}, "nvalid partition", "`sinfo` lists"),
    ({"reservation": "week-48"}, "eservation", "`scontrol show reservation`"),
    ({"constraint": "trn9"}, "nvalid feature", "names a feature that no node has"),
    ({"nodes": 2, "exclude": "trn1-1"}, "", "nodes"),
]


@pytest.mark.slurm
@pytest.mark.parametrize("resources", ACCEPTED, ids=lambda one: next(iter(one)))
def test_sbatch_takes_every_option(resources: dict[str, Any], slurm_cluster: SlurmCluster) -> None:
    """Without accounts Slurm takes any account and QOS; test_sbatch_knows_accounts has a cluster with them."""
    answer = asked(slurm_cluster, rendered(resources))
    assert answer.exit == 0, answer.stderr


@pytest.mark.slurm
@pytest.mark.parametrize(("resources", "words", "advice"), REFUSED, ids=lambda one: str(one)[:24])
def test_what_sbatch_refuses_is_told_with_advice(
    resources: dict[str, Any], words: str, advice: str, slurm_cluster: SlurmCluster
) -> None:
    answer = asked(slurm_cluster, rendered(resources))
    assert answer.exit != 0
    told = refusal("sbatch", answer)
    assert words in told.message
    assert advice in told.hint, told.message


@pytest.fixture(scope="module")
def strict_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A Slurm that keeps accounts and holds jobs to them, where MariaDB is installed."""
    missing = missing_programs(PROGRAMS)
    if missing:
        pytest.skip(f"{', '.join(missing)} not found. Install with: {APT_LINE}")
    held = ["AccountingStorageEnforce=associations,limits,qos"]
    with SlurmCluster(tmp_path_factory.mktemp("strict"), accounting=True, extra=held) as cluster:
        yield cluster


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("resources", "advice"),
    [({"account": "nobody"}, "accounts you may use"), ({"qos": "nothing"}, "QOS you may use")],
    ids=["account", "qos"],
)
def test_sbatch_knows_accounts(resources: dict[str, Any], advice: str, strict_cluster: SlurmCluster) -> None:
    answer = asked(strict_cluster, rendered(resources))
    assert answer.exit != 0
    assert advice in refusal("sbatch", answer).hint, answer.stderr


def rendered(resources: dict[str, Any]) -> str:
    return render_script(plan_run(neuron_settings(**resources), "/fsx/w", "one"), Stage.FINETUNE, 1)
