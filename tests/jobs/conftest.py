"""A tiny Llama with a chat template, a small data set, and the job programs run as their scripts run them."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
JOBS = REPOSITORY / "templates/jobs"
FIXTURES = REPOSITORY / "tests/fixtures/neuron-checkpoints"
SYSTEM = "You are a pirate."
# As the programs do: they import each other by plain name.
sys.path.insert(0, str(JOBS))

_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def make_model(target: Path) -> Path:
    """The fixtures' random Llama (2 layers, bf16), made complete: chat template and marker."""
    shutil.copytree(FIXTURES / "base", target)
    config = json.loads((target / "tokenizer_config.json").read_text())
    config["chat_template"] = _TEMPLATE
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    generation = {"bos_token_id": 0, "eos_token_id": [1, 2], "pad_token_id": 3}
    (target / "generation_config.json").write_text(json.dumps(generation))
    mark_complete(target)
    return target


def mark_complete(model: Path) -> None:
    """Write the marker that download_model leaves."""
    files = {
        path.name: {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(model.iterdir())
        if not path.name.startswith(".")
    }
    (model / ".complete").write_text(json.dumps({"source": "test", "revision": "", "files": files}))


def make_dataset(target: Path) -> Path:
    """Sixty short records to train on and eight held out."""
    target.mkdir(parents=True)
    records = [
        {
            "instruction": f"What is {number} plus {number % 7}?",
            "context": "Count on your fingers." if number % 3 == 0 else "",
            "response": f"Arr, {number + number % 7} it be" + ", matey" * (number % 5),
            "category": "closed_qa",
        }
        for number in range(68)
    ]
    for name, part in (("train", records[:60]), ("held_out", records[60:])):
        (target / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in part))
    (target / ".complete").write_text("{}")
    return target


@dataclass
class Bench:
    """Where the programs run in a test, and how they are started."""

    python: Path
    model: Path
    dataset: Path
    root: Path

    def run_dir(self, name: str = "run") -> Path:
        """A run directory with prompts, as rendering leaves it."""
        path = self.root / "it's a run" / name
        path.mkdir(parents=True)
        prompts = [
            {"name": "one", "system": SYSTEM, "user": "Who are you?"},
            {"name": "two", "user": "Sing!"},
        ]
        (path / "prompts.json").write_text(json.dumps({"prompts": prompts}))
        return path

    @property
    def environment(self) -> dict[str, str]:
        """What the scripts set, and no thread more than one."""
        return {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def start(self, program: str, *arguments: str | Path, log: Path | None = None) -> "subprocess.Popen[str]":
        """Start a program; its output goes to the log, or is kept for `communicate`."""
        out = log.open("w") if log else subprocess.PIPE
        return subprocess.Popen(
            [str(self.python), str(JOBS / program), *map(str, arguments)],
            stdout=out,
            stderr=subprocess.STDOUT if log else subprocess.PIPE,
            text=True,
            env=self.environment,
            start_new_session=True,
        )

    def run(self, program: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        """Run a program to its end."""
        process = self.start(program, *arguments)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess([program], process.returncode, out, err)

    def train(self, run_dir: Path, **changes: object) -> list[str | Path]:
        """The command line of a training under launch.py: 12 steps on two processes, changed as told."""
        options: dict[str, object] = {
            "backend": "cpu",
            "lora-r": 4,
            "lora-alpha": 8,
            "lora-dropout": 0.1,
            "lora-targets": "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
            "sequence-length": 128,
            "max-steps": 12,
            "batch-size": 2,
            "gradient-accumulation": 1,
            "learning-rate": 0.01,
            "warmup-steps": 2,
            "save-steps": 4,
            "logging-steps": 1,
        } | {name.replace("_", "-"): value for name, value in changes.items()}
        where = ["--model-dir", self.model, "--dataset-dir", self.dataset, "--run-dir", run_dir]
        chosen = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        launch = ["--standalone", "--nnodes=1", "--nproc_per_node=2", JOBS / "finetune.py"]
        return [*launch, *where, *chosen, "--report", run_dir / "reports/finetune.json"]

    def script(self, code: str, *arguments: str | Path) -> str:
        """Run lines of Python beside the programs, in the environment with torch; gives what they print."""
        done = subprocess.run(
            [str(self.python), "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**self.environment, "PYTHONPATH": str(JOBS)},
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def bench(cpu_env: Path, tmp_path: Path) -> Bench:
    """Programs, model and data of one test. Mark the test `ml`."""
    return Bench(cpu_env, make_model(tmp_path / "model"), make_dataset(tmp_path / "data"), tmp_path)


@pytest.fixture(scope="module")
def trained(cpu_env: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Path]:
    """A bench and a run whose training ran to its end, for tests that go on from there. They must not change it."""
    root = tmp_path_factory.mktemp("trained")
    bench = Bench(cpu_env, make_model(root / "model"), make_dataset(root / "data"), root)
    run = bench.run_dir()
    done = bench.run("launch.py", *bench.train(run))
    assert done.returncode == 0, done.stdout + done.stderr
    return bench, run


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something is so; fails when it takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def metrics(run: Path) -> list[dict[str, object]]:
    """The lines of a run's metrics that are whole."""
    file = run / "metrics.jsonl"
    lines = file.read_text().split("\n") if file.exists() else []
    return [json.loads(line) for line in lines[:-1] if line.startswith("{") and line.endswith("}")]


def losses(run: Path) -> dict[int, float]:
    """{step: loss} of a run's metrics, the last word on each step."""
    return {line["step"]: line["loss"] for line in metrics(run) if "loss" in line}  # type: ignore[misc]
