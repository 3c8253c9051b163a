"""Where things lie in the workspace and in a run directory: absolute POSIX paths on the host."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from llama_tui.backend.settings import SHIPPED_DATASET, SMOLLM2_WHEEL
from llama_tui.backend.stages import Stage

# What a run directory may be called: create_run's names, and a person's own for one that was moved.
_RUN_ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,127}", re.ASCII)


def is_run_id(name: str) -> bool:
    """Whether a directory of this name can be a run: one path component, no option, on one line."""
    return _RUN_ID.fullmatch(name) is not None


def directory_name(source: str) -> str:
    """What a model or data set is called on disk: org--name for a hub id, the file's own name for a path."""
    if source in {SHIPPED_DATASET, SMOLLM2_WHEEL}:
        return source.replace(":", "--")
    if source.startswith("/"):
        stem = PurePosixPath(source).name.rsplit(".", 1)[0] if "." in PurePosixPath(source).name else ""
        return "local--" + (re.sub(r"[^\w.-]", "_", stem or PurePosixPath(source).name) or "root")
    return source.replace("/", "--")


@dataclass(frozen=True)
class Workspace:
    """The directory that holds environments, models, data sets, caches and runs."""

    path: str

    def environment(self, stack: str, pins_hash: str) -> str:
        """envs/<stack>-<hash of the pins>"""
        return f"{self.path}/envs/{stack}-{pins_hash}"

    def model(self, source: str) -> str:
        """models/<org>--<name>"""
        return f"{self.path}/models/{directory_name(source)}"

    def dataset(self, name: str) -> str:
        """datasets/<name>"""
        return f"{self.path}/datasets/{name}"

    @property
    def cache(self) -> str:
        """Compiled graphs, shared by all runs."""
        return f"{self.path}/cache"

    @property
    def runs(self) -> str:
        """One directory for each run."""
        return f"{self.path}/runs"

    @property
    def token(self) -> str:
        """The Hugging Face token: 0600, in a directory that is 0700, outside every run."""
        return f"{self.path}/.secret/hf_token"

    def run(self, run_id: str) -> RunLayout:
        """The directory of one run."""
        return RunLayout(f"{self.runs}/{run_id}")


@dataclass(frozen=True)
class RunLayout:
    """The directory of one run."""

    path: str

    @property
    def run_id(self) -> str:
        """The directory's name."""
        return PurePosixPath(self.path).name

    def file(self, name: str) -> str:
        """A file or directory directly in the run directory."""
        return f"{self.path}/{name}"

    def script(self, stage: Stage, attempt: int) -> str:
        """Exactly what ran, usable by hand with plain sbatch."""
        return f"{self.path}/scripts/{stage.number}.{stage}.{attempt}.sbatch"

    def log(self, stage: Stage, attempt: int) -> str:
        """What the attempt printed."""
        return f"{self.path}/logs/{stage}.{attempt}.log"

    def status(self, stage: Stage) -> str:
        """What the stage's script says of itself."""
        return f"{self.path}/status/{stage}.json"

    def report(self, stage: Stage) -> str:
        """What the stage's program found and did."""
        return f"{self.path}/reports/{stage}.json"

    @property
    def submitted(self) -> str:
        """One line before and one after each submission."""
        return f"{self.path}/submitted.jsonl"

    @property
    def settings(self) -> str:
        """The settings as launched."""
        return f"{self.path}/settings.toml"
