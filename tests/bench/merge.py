"""Merges an adapter into a synthetic base of several GB: peak memory, and time as a ratio to `cp` of the same bytes.

PYTHON_WITH_THE_CPU_STACK tests/bench/merge.py [--layers N] [--hidden N] [--targets all|qv] DIRECTORY
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

JOBS = Path(__file__).resolve().parents[2] / "templates/jobs"
SHARD = 4_500_000_000
RANK = 16


def shapes(layers: int, hidden: int) -> dict[str, tuple[int, int]]:
    """A Llama's matrices: kv heads a quarter of the heads, intermediate 3.5 times the hidden size, as Llama 3 has."""
    inner, key = int(hidden * 3.5), hidden // 4
    found = {"model.embed_tokens.weight": (128_256, hidden), "lm_head.weight": (128_256, hidden)}
    for layer in range(layers):
        base = f"model.layers.{layer}"
        found |= {
            f"{base}.self_attn.q_proj.weight": (hidden, hidden),
            f"{base}.self_attn.k_proj.weight": (key, hidden),
            f"{base}.self_attn.v_proj.weight": (key, hidden),
            f"{base}.self_attn.o_proj.weight": (hidden, hidden),
            f"{base}.mlp.gate_proj.weight": (inner, hidden),
            f"{base}.mlp.up_proj.weight": (inner, hidden),
            f"{base}.mlp.down_proj.weight": (hidden, inner),
        }
    return found


def make_base(folder: Path, layers: int, hidden: int) -> None:
    """Safetensors files of at most SHARD bytes, with their index."""
    folder.mkdir(parents=True)
    groups: list[dict[str, tuple[int, int]]] = [{}]
    size = 0
    for name, shape in shapes(layers, hidden).items():
        if size + shape[0] * shape[1] * 2 > SHARD:
            groups.append({})
            size = 0
        groups[-1][name] = shape
        size += shape[0] * shape[1] * 2
    index: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        tensors = {name: torch.randn(shape, dtype=torch.bfloat16) * 0.02 for name, shape in group.items()}
        save_file(tensors, folder / file)
        index |= dict.fromkeys(group, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    )
    (folder / ".complete").write_text(json.dumps({"source": "synthetic", "revision": "", "files": {}}))


def make_adapter(folder: Path, layers: int, hidden: int, targets: list[str]) -> None:
    """A PEFT adapter on these layers."""
    folder.mkdir(parents=True)
    tensors = {}
    for name, (rows, columns) in shapes(layers, hidden).items():
        if name.split(".")[-2] in targets:
            stem = "base_model.model." + name.removesuffix(".weight")
            tensors[f"{stem}.lora_A.weight"] = torch.randn(RANK, columns) * 0.01
            tensors[f"{stem}.lora_B.weight"] = torch.randn(rows, RANK) * 0.01
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": targets, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def timed(command: list[str]) -> tuple[float, int]:
    """Seconds, and the peak memory in bytes that the command printed last, if it did."""
    os.sync()
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(JOBS)}
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    os.sync()
    seconds = time.monotonic() - began
    last = (answer.stdout.split() or ["0"])[-1]
    return seconds, int(last) * 1024 if last.isdecimal() else 0


# VmHWM, not ru_maxrss: that one begins with what the parent of the process had.
_MERGE = """
import re, sys
from pathlib import Path
from merge import merge
merge(*map(Path, sys.argv[1:]))
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--hidden", type=int, default=3072)
    parser.add_argument("--targets", choices=("all", "qv"), default="qv")
    arguments = parser.parse_args()
    every = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
    targets = every if arguments.targets == "all" else ["q_proj", "v_proj"]
    root = arguments.directory / "merge-bench"
    shutil.rmtree(root, ignore_errors=True)
    make_base(root / "base", arguments.layers, arguments.hidden)
    make_adapter(root / "adapter", arguments.layers, arguments.hidden, targets)
    size = sum(file.stat().st_size for file in (root / "base").glob("*.safetensors"))
    merging = [sys.executable, "-c", _MERGE, *(str(root / name) for name in ("base", "adapter", "merged"))]
    copy_seconds, _ = timed(["cp", "-r", str(root / "base"), str(root / "copy")])
    shutil.rmtree(root / "copy")
    seconds, peak = timed(merging)
    again, _ = timed(["cp", "-r", str(root / "base"), str(root / "copy")])
    shutil.rmtree(root)
    copied = (copy_seconds + again) / 2
    print(
        f"{size / 1e9:.1f} GB, adapter on {len(targets)} layers a block: merge {seconds:.1f} s, cp {copied:.1f} s"
    )
    print(f"ratio {seconds / copied:.2f}, peak memory of the merge {peak / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
