"""The rendered scripts: valid shell, shellcheck-clean, and nothing that was typed is ever run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llama_tui.backend.render import plan_run, render_run_files, render_script
from llama_tui.backend.settings import Settings, Stack, defaults
from llama_tui.backend.stages import STAGES, Stage

HOSTILE = '/fsx/it\'s $(touch pwned) `touch pwned` "x" %j é'


def settings_of(stack: Stack, nodes: int = 1) -> Settings:
    data = defaults(stack).model_dump(mode="json")
    data["resources"]["nodes"] = nodes
    data["resources"]["partition"] = "dev"
    data["resources"]["extra"] = ["--mail-type=END", "--mail-user=a b;c@d"]
    return Settings.model_validate(data)


def script(stage: Stage, stack: Stack, workspace: str = "/fsx/w", nodes: int = 1) -> str:
    return render_script(plan_run(settings_of(stack, nodes), workspace, "pirate-1"), stage, 1)


CASES = [
    pytest.param(
        stack, nodes, workspace, id=f"{stack}-{nodes}-{'hostile' if workspace == HOSTILE else 'plain'}"
    )
    for stack in Stack
    for nodes in (1, 2)
    for workspace in ("/fsx/w", HOSTILE)
]


@pytest.mark.parametrize(("stack", "nodes", "workspace"), CASES)
def test_every_script_passes_bash_and_shellcheck(
    stack: Stack, nodes: int, workspace: str, tmp_path: Path
) -> None:
    paths = []
    for stage in STAGES:
        path = tmp_path / f"{stage}.sh"
        path.write_text(script(stage, stack, workspace, nodes))
        subprocess.run(["bash", "-n", str(path)], check=True)
        paths.append(str(path))
    # A literal $( ) in single quotes is what we want there.
    command = [str(Path(sys.executable).with_name("shellcheck")), "-e", "SC2016", *paths]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout


def test_directives_are_what_sbatch_reads() -> None:
    lines = script(Stage.FINETUNE, Stack.NEURON, nodes=2).splitlines()
    directives = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert "--nodes=2" in directives
    assert "--partition=dev" in directives
    assert "--exclusive" in directives
    assert '--comment="pirate-1/finetune/1"' in directives
    assert '--mail-user="a b;c@d"' in directives


def test_only_training_asks_for_all_nodes() -> None:
    for stage in STAGES:
        wanted = 2 if stage in {Stage.COMPILE_MODEL, Stage.FINETUNE} else 1
        assert f"#SBATCH --nodes={wanted}\n" in script(stage, Stack.NEURON, nodes=2)


def test_the_token_is_named_only_where_it_is_needed() -> None:
    for stage in STAGES:
        assert ("HF_TOKEN_PATH" in script(stage, Stack.NEURON)) is (stage is Stage.DOWNLOAD_MODEL)


def test_compilation_and_training_get_the_same_arguments() -> None:
    """Another argument is another graph, hence a cache miss in stage 3."""

    def options(stage: Stage) -> set[str]:
        text = script(stage, Stack.NEURON)
        found = {line.strip(" \\") for line in text.splitlines() if line.startswith("    --")}
        return {line for line in found if not line.startswith(("--max-steps", "--report"))}

    assert options(Stage.COMPILE_MODEL) == options(Stage.FINETUNE)


@pytest.mark.parametrize("stage", STAGES)
def test_a_hostile_workspace_runs_nothing(stage: Stage, tmp_path: Path) -> None:
    """The script fails, because nothing is there; but it fails at its own check, and says so in its status file."""
    workspace = tmp_path / "it's $(touch pwned) `touch pwned` é"
    plan = plan_run(settings_of(Stack.CPU), str(workspace), "pirate-1")
    Path(plan.layout.path).mkdir(parents=True)
    path = tmp_path / "script.sh"
    path.write_text(render_script(plan, stage, 3))
    environment = {"PATH": os.environ["PATH"], "HF_TOKEN": "hf_secret", "SLURM_JOB_ID": "77"}
    answer = subprocess.run(
        ["bash", str(path)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert answer.returncode != 0
    assert not list(tmp_path.rglob("pwned"))
    status = (Path(plan.layout.path) / f"status/{stage}.json").read_text()
    assert '"state": "done"' in status
    assert '"attempt": 3' in status
    assert '"job_id": "77"' in status
    assert f'"exit_code": {answer.returncode}' in status


def test_sigterm_reaches_the_program_and_the_status_file(tmp_path: Path) -> None:
    plan = plan_run(settings_of(Stack.CPU), str(tmp_path / "w"), "pirate-1")
    jobs = Path(plan.layout.path) / "jobs"
    jobs.mkdir(parents=True)
    (jobs / "create_env.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "print('ready', flush=True)\n"
        "time.sleep(300)\n"
    )
    path = tmp_path / "script.sh"
    path.write_text(render_script(plan, Stage.CREATE_ENV, 1))
    with subprocess.Popen(["bash", str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "ready" not in process.stdout.readline():
            pass
        process.terminate()
        assert process.wait(60) == 143
    status = (Path(plan.layout.path) / "status/create_env.json").read_text()
    assert '"exit_code": 143' in status
    assert '"signal": "TERM"' in status


def test_a_sigterm_before_the_program_has_begun_reaches_it_as_well(tmp_path: Path) -> None:
    """The shell hears of it after it has started the program, and before it knows the program's number."""
    plan = plan_run(settings_of(Stack.CPU), str(tmp_path / "w"), "pirate-1")
    jobs = Path(plan.layout.path) / "jobs"
    jobs.mkdir(parents=True)
    (jobs / "create_env.py").write_text("import time\ntime.sleep(300)\n")
    script = render_script(plan, Stage.CREATE_ENV, 1)
    assert script.count("    child=$!\n") == 1
    path = tmp_path / "script.sh"
    path.write_text(script.replace("    child=$!\n", "    kill -TERM $$\n    child=$!\n"))
    ended = subprocess.run(["bash", str(path)], timeout=60, capture_output=True)
    assert ended.returncode == 143
    status = (Path(plan.layout.path) / "status/create_env.json").read_text()
    assert '"signal": "TERM"' in status


def test_a_run_directory_holds_what_its_scripts_name() -> None:
    plan = plan_run(settings_of(Stack.CPU), "/fsx/w", "pirate-1")
    names = {path.removeprefix(plan.layout.path + "/") for path in render_run_files(plan)}
    for stage in STAGES:
        program = "finetune" if stage is Stage.COMPILE_MODEL else stage
        assert f"jobs/{program}.py" in names
    assert {"settings.toml", "stack.json", "prompts.json", "data/captain-chat.jsonl"} <= names
