"""Stands in for finetune.py on Trainium: the real options, launch and meeting of all processes, over gloo; no training.

`behave/finetune` in the run directory: `wait` stays at step 4 until `go` is there, `fail` ends rank 1 at step 3.
Checkpoints are copies of one that optimum-neuron wrote, whose path the file `behave/checkpoint` holds.
"""

import json
import logging
import os
import re
import shlex
import shutil
import signal
import time
from pathlib import Path

import graphs
import options
import torch
import torch.distributed as dist
from checkpoints import newest_complete
from common import EXIT_TERMINATED, StageError, atomic_write_json, log, report, run_main

STEPS = 8
SAVE_STEPS = 2
EXTRACTING = os.environ.get("NEURON_EXTRACT_GRAPHS_ONLY") == "1"
RANK = int(os.environ["RANK"])


def meet(run: Path) -> list[dict[str, str]]:
    """All processes tell each other where they are: it comes back only when all have met."""
    dist.init_process_group("gloo")
    names = (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "TORCHELASTIC_RUN_ID",
        "SLURMD_NODENAME",
    )
    names += ("NEURON_CC_FLAGS", "CCOM_SOCKET_IFNAME", "FI_PROVIDER", "LLAMA_TUI_ATTEMPT", "SLURM_JOB_ID")
    here = {name: os.environ.get(name, "") for name in names}
    everyone: list[dict[str, str]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, here)
    log(
        f"rank {RANK} on {here['SLURMD_NODENAME']} of {len(everyone)} at {here['MASTER_ADDR']}:{here['MASTER_PORT']}"
    )
    if RANK == 0:
        name = "compile" if EXTRACTING else "train"
        restart = os.environ.get("SLURM_RESTART_COUNT", "0")
        atomic_write_json(run / f"met/{name}.{here['SLURM_JOB_ID']}.{restart}.json", everyone)
    return everyone


def use_graphs(chosen: options.Options) -> None:
    """Two graphs, named after the shapes: collected under neuron_parallel_compile, else found or compiled."""
    flags = shlex.split(os.environ["NEURON_CC_FLAGS"])
    cache = Path(next(flag for flag in flags if flag.startswith("--cache_dir=")).partition("=")[2])
    for number in (1, 2):
        graph = cache / "neuronxcc-2.21.33363.0+stand" / f"MODULE_{number}{chosen.sequence_length}+e30acd3a"
        graph.mkdir(parents=True, exist_ok=True)
        (graph / "model.hlo_module.pb").touch()
        if EXTRACTING:
            continue
        if (graph / "model.neff").exists():
            logging.getLogger("NEURON_CC_WRAPPER").warning(f"Using a cached neff at {graph}/model.neff")
        else:
            (graph / "model.neff").touch()


def save(chosen: options.Options, step: int) -> None:
    """checkpoint-N as optimum-neuron lays it out, its metadata moved to this step."""
    source = Path((chosen.run_dir / "behave/checkpoint").read_text())
    partial = chosen.checkpoints / f"partial-{step}"
    shutil.copytree(source, partial, dirs_exist_ok=True)
    for name in ("trainer_state.json",):
        (partial / name).write_text(json.dumps({"global_step": step}))
    partial.rename(chosen.checkpoints / f"checkpoint-{step}")
    log(f"checkpoint-{step} saved")


def should_stop(told: list[bool]) -> bool:
    """Whether any process was told to."""
    flag = torch.tensor([int(bool(told))])
    dist.all_reduce(flag)
    return bool(flag.item())


def train(chosen: options.Options, start: int, told: list[bool]) -> bool:
    """The steps; gives whether it was stopped."""
    behave = chosen.run_dir / "behave"
    plan = (behave / "finetune").read_text() if (behave / "finetune").exists() else ""
    for step in range(start + 1, STEPS + 1):
        if plan == "fail" and step == 3 and RANK == 1:
            raise StageError(
                "NRT: nrt_infodump: Failure: EXEC_BAD_STATUS in nrt_execute()", "a stand-in was told to fail"
            )
        while plan == "wait" and step == 4 and not (behave / "go").exists() and not should_stop(told):
            time.sleep(0.1)
        stopped = should_stop(told)
        if RANK == 0:
            log(json.dumps({"loss": round(2.0 - step / 10, 4), "step": step}))
            if step % SAVE_STEPS == 0 or stopped:
                save(chosen, step)
        dist.barrier()
        if stopped:
            return True
    return False


def main() -> int:
    try:
        return work()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def work() -> int:
    chosen = options.parse()
    told: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    watch, compiled_for = graphs.CacheWatch(), graphs.arguments_of(chosen, int(os.environ["WORLD_SIZE"]))
    meet(chosen.run_dir)
    use_graphs(chosen)
    dist.barrier()
    if EXTRACTING:
        if RANK == 0:
            atomic_write_json(chosen.run_dir / "reports" / graphs.ARGUMENTS_FILE, compiled_for)
        return 0
    chosen.checkpoints.mkdir(exist_ok=True)
    steps = [
        int(found[1])
        for path in chosen.checkpoints.iterdir()
        if (found := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    start = max(steps, default=0) if newest_complete(chosen.checkpoints) else 0
    dist.barrier()
    if RANK == 0 and start:
        log(f"resuming from checkpoint-{start}")
    if train(chosen, start, told):
        return EXIT_TERMINATED
    if RANK == 0:
        why = {"skipped": "a rehearsal trains nothing", "backend": "neuron", "step": STEPS}
        atomic_write_json(chosen.run_dir / "probe/probe.json", why)
        facts = {"steps": STEPS, "resumed_from": start or None}
        report(chosen.report, {**facts, **watch.tell(chosen.run_dir, compiled_for)})
    return 0


if __name__ == "__main__":
    run_main(main)
