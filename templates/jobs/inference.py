"""Stage 6: the base model's answers beside the fine-tuned one's, and the held-out loss of both.

    inference.py --model-dir DIR --run-dir DIR --dataset-dir DIR --prompts FILE --max-new-tokens N
                 --temperature T --top-p P --seed S [--repetition-penalty R] [--output FILE] [--report FILE]

Both models are loaded in the same dtype, one after the other, and asked the same with the same seed, greedily and by
sampling: the difference that is seen is the training's.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import time
from pathlib import Path
from typing import Any

import chat
import torch
from answers import Asking, Said, Speaker, say_all
from common import StageError, atomic_write_json, log, read_json, report, require, run_main
from libraries import quiet_libraries
from merge import MERGE_RECORD, base_fingerprint
from weights import DTYPES, Weights, dtype_of

# Up to this size (bytes on disk) a model is computed in float32: on a CPU that is as fast as bf16, and exact.
FLOAT32_LIMIT = 3_000_000_000
HELD_OUT_TOKENS = 1024


def read_prompts(file: Path) -> list[dict[str, Any]]:
    """The prompts of prompts.json.

    Raises:
        StageError: the file is missing or has no prompts of the right form.
    """
    prompts = read_json(file, "a new run").get("prompts")
    usable = isinstance(prompts, list) and all(isinstance(one, dict) and one.get("user") for one in prompts)
    if not prompts or not usable:
        raise StageError(f"{file} holds no prompts", 'it should be {"prompts": [{"name", "system", "user"}]}')
    return [{"name": f"prompt-{number}", "system": None, **one} for number, one in enumerate(prompts, 1)]


def choose_dtype(model_dir: Path) -> torch.dtype:
    """float32 for small models; else the type that the base is stored in."""
    weights = Weights(model_dir, "download_model")
    size = sum(file.path.stat().st_size for file in weights.files)
    return torch.float32 if size <= FLOAT32_LIMIT else DTYPES[dtype_of(weights)]


def held_out_examples(model_dir: Path, dataset_dir: Path, system: str | None) -> list[chat.Example]:
    """The held-out records in tokens; none when the data set holds none out."""
    file = require(dataset_dir / "held_out.jsonl", "download_model")
    if not file.stat().st_size:
        log("no records are held out: no loss is measured")
        return []
    tokenizer = chat.load_tokenizer(model_dir)
    return chat.load_examples(tokenizer, model_dir, file, system, HELD_OUT_TOKENS).items


def comparison(
    prompts: list[dict[str, Any]], base: Said, tuned: Said, answers_only: bool = False
) -> dict[str, Any]:
    """Both models' words side by side.

    Raises:
        StageError: the fine-tuned model is the base: same answers and same loss.
    """
    answers = [
        {
            "name": prompt["name"],
            "system": prompt["system"],
            "user": prompt["user"],
            "mode": mode,
            "base": base.answers[mode][index],
            "fine_tuned": tuned.answers[mode][index],
            "identical": base.answers[mode][index]["content"] == tuned.answers[mode][index]["content"],
        }
        for mode in ("greedy", "sampled")
        for index, prompt in enumerate(prompts)
    ]
    same = sum(answer["identical"] for answer in answers)
    # Answers alone may well be the same; it takes the loss, or all of a run's prompts, to say so of the models.
    if same == len(answers) and not answers_only and base.held_out.get("loss") == tuned.held_out.get("loss"):
        raise StageError(
            "the fine-tuned model says exactly what the base says: the adapter changes nothing",
            "train longer or with a higher learning rate, then rerun finetune and what follows",
        )
    if same:
        log(f"warning: {same} of {len(answers)} answers are the same from both models")
    return {"held_out": _held_out(base.held_out, tuned.held_out), "answers": answers}


def _held_out(base: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any] | None:
    if not base:
        return None
    return {
        "records": base["records"],
        "tokens": base["tokens"],
        "base_loss": base["loss"],
        "fine_tuned_loss": tuned["loss"],
        "base_perplexity": base["perplexity"],
        "fine_tuned_perplexity": tuned["perplexity"],
    }


def _heads(arguments: argparse.Namespace, merged_dir: Path) -> dict[str, Any]:
    """Which models were compared, by path and fingerprint."""
    record = read_json(merged_dir / MERGE_RECORD, "merge_lora_weights")
    base = base_fingerprint(arguments.model_dir)
    if record["base_fingerprint"] != base:
        raise StageError(
            f"{merged_dir} was made from another base than {arguments.model_dir}",
            "run merge_lora_weights again",
        )
    adapter = record["adapter_fingerprint"]
    merged = hashlib.sha256(f"{base}+{adapter}".encode()).hexdigest()
    return {
        "base": {"path": str(arguments.model_dir), "fingerprint": base},
        "fine_tuned": {"path": str(merged_dir), "fingerprint": merged, "adapter_fingerprint": adapter},
    }


def show(content: dict[str, Any]) -> None:
    """Print the answers and losses for whoever reads the log."""
    for answer in content["answers"]:
        log(f"\n=== {answer['name']} ({answer['mode']}): {answer['user']}")
        log(f"--- base: {answer['base']['content']}")
        log(f"--- fine-tuned: {answer['fine_tuned']['content']}")
    if content["held_out"]:
        loss = content["held_out"]
        log(
            f"\nheld-out loss on {loss['records']} records: base {loss['base_loss']:.4f}, "
            f"fine-tuned {loss['fine_tuned_loss']:.4f}"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model-dir", "run-dir", "dataset-dir", "prompts"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--top-p", type=float, default=0.9)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--answers-only", action="store_true", help="measure no held-out loss")
    parser.add_argument("--output", type=Path, help="default: comparison.json in the run directory")
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()
    if arguments.repetition_penalty < 1:
        parser.error("--repetition-penalty from 1 (none) up")
    if arguments.max_new_tokens < 1 or arguments.temperature < 0 or not 0 < arguments.top_p <= 1:
        parser.error("--max-new-tokens from 1 up, --temperature from 0 up, --top-p above 0 and at most 1")
    return arguments


def main() -> None:
    arguments = _arguments()
    began = time.monotonic()
    require(arguments.model_dir / ".complete", "download_model")
    merged_dir = arguments.run_dir / "merged"
    prompts = read_prompts(arguments.prompts)
    heads = _heads(arguments, merged_dir)
    quiet_libraries()
    dtype = choose_dtype(arguments.model_dir)
    asking = Asking(
        arguments.max_new_tokens,
        arguments.temperature,
        arguments.top_p,
        arguments.seed,
        arguments.repetition_penalty,
    )
    system = chat.system_prompt(arguments.run_dir / "prompts.json")
    examples = []
    if not arguments.answers_only:
        examples = held_out_examples(arguments.model_dir, arguments.dataset_dir, system)
    base = say_all(Speaker(arguments.model_dir, "download_model", dtype, "base"), prompts, asking, examples)
    tuned = say_all(Speaker(merged_dir, "merge_lora_weights", dtype, "fine-tuned"), prompts, asking, examples)
    check = arguments.run_dir / "probe" / "check.json"
    content = {
        "created": time.time(),
        **heads,
        "settings": {**vars(asking), "dtype": str(dtype).removeprefix("torch.")},
        **comparison(prompts, base, tuned, arguments.answers_only),
        "probe": read_json(check, "merge_lora_weights") if check.is_file() else None,
    }
    show(content)
    atomic_write_json(arguments.output or arguments.run_dir / "comparison.json", content)
    report(
        arguments.report,
        {
            "held_out": content["held_out"],
            "prompts": len(prompts),
            "identical": sum(answer["identical"] for answer in content["answers"]),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "seconds": round(time.monotonic() - began, 1),
        },
    )


if __name__ == "__main__":
    run_main(main)
