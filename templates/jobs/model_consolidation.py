"""Stage 4: the adapter shards of the newest complete checkpoint, joined to one PEFT adapter in <run>/adapter.

    model_consolidation.py --run-dir DIR [--report FILE]

Plain torch, no Neuron package: it runs on any machine.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from checkpoints import all_checkpoints, newest_complete
from common import StageError, atomic_directory, atomic_write_json, log, report, run_main
from consolidate import Adapter
from merge import ADAPTER_FILE
from safetensors.torch import save_file


def write_adapter(adapter: Adapter, target: Path) -> None:
    """Write a PEFT adapter directory, which gets its name when complete."""
    with atomic_directory(target) as partial:
        save_file(adapter.tensors, partial / ADAPTER_FILE, metadata={"format": "pt"})
        atomic_write_json(partial / "adapter_config.json", adapter.config)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()
    began = time.monotonic()
    folder = arguments.run_dir / "checkpoints"
    if not all_checkpoints(folder):
        raise StageError(f"missing input: {folder}/checkpoint-N", "run finetune first")
    found = newest_complete(folder)
    if found is None:
        raise StageError(
            f"none of the checkpoints in {folder} is complete (the lines above say why)", "run finetune again"
        )
    adapter, target = found.adapter, arguments.run_dir / "adapter"
    write_adapter(adapter, target)
    replicas = adapter.replica_difference
    log(f"{found.path.name}: {len(adapter.tensors)} tensors joined in {target}")
    if replicas["max"]:
        log(
            f"warning: parameters that all ranks should hold alike differ by up to {replicas['max']:.3g} "
            f"({replicas['parameter']}, rank {replicas['rank']}); rank 0's are taken, and stage 5 checks the result"
        )
    report(
        arguments.report,
        {
            "checkpoint": str(found.path),
            "step": found.step,
            "tensors": len(adapter.tensors),
            "parameters": sum(tensor.numel() for tensor in adapter.tensors.values()),
            "replica_difference": replicas,
            "path": str(target),
            "seconds": round(time.monotonic() - began, 1),
        },
    )


if __name__ == "__main__":
    run_main(main)
