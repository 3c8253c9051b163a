"""Stage 5: base model + adapter, as a model of its own in <run>/merged, checked against the model that was trained.

merge_lora_weights.py --model-dir DIR --run-dir DIR [--report FILE]
"""

from __future__ import annotations

import argparse
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import probe
from common import StageError, atomic_write_json, in_words, log, report, require, run_main
from merge import merge


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()
    adapter_dir, merged_dir = arguments.run_dir / "adapter", arguments.run_dir / "merged"
    require(arguments.model_dir / ".complete", "download_model")
    require(adapter_dir / "adapter_config.json", "model_consolidation")
    require(arguments.run_dir / "probe" / "probe.json", "finetune")
    began = time.monotonic()
    record = merge(arguments.model_dir, adapter_dir, merged_dir)
    merged_after = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    log(
        f"{record['changed_tensors']} of {record['tensors']} tensors changed, {in_words(record['bytes'])} written in {merged_after:.1f} s, peak memory {in_words(peak)}"
    )
    facts = {"merge": record, "merge_seconds": round(merged_after, 1), "peak_memory_bytes": peak}
    found = _checked(arguments, adapter_dir, merged_dir)
    seconds = round(time.monotonic() - began, 1)
    report(arguments.report, {**facts, "probe": found, "path": str(merged_dir), "seconds": seconds})


def _checked(arguments: argparse.Namespace, adapter_dir: Path, merged_dir: Path) -> dict[str, Any]:
    """Ask the probe; a merged model that fails is moved to a name that no later stage takes."""
    log("asking the merged model the probe of stage 3")
    try:
        found = probe.check(arguments.run_dir, arguments.model_dir, adapter_dir, merged_dir)
    except StageError as error:
        refused = merged_dir.with_name("merged.refused")
        shutil.rmtree(refused, ignore_errors=True)
        merged_dir.rename(refused)
        raise StageError(f"{error.message} The model is kept as {refused}.", error.hint) from None
    atomic_write_json(arguments.run_dir / "probe" / "check.json", found)
    return found


if __name__ == "__main__":
    run_main(main)
