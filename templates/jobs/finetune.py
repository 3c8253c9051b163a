"""Stage 3: trains the LoRA adapter; with --rehearse it is stage 2 of the CPU stack.

    torchrun --nproc_per_node N finetune.py --model-dir DIR --dataset-dir DIR --run-dir DIR --backend cpu|neuron ...

One program with two back ends: data, template, packing, plan, metrics and choice of checkpoint are the same for both.
SIGTERM ends it with a checkpoint and exit code 143. A rerun goes on from the newest complete checkpoint.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

import options
from common import StageError, run_main

_PR_SET_PDEATHSIG = 1
# How long the other processes leave the word to the first one before they end as well.
_DEFERENCE_SECONDS = 10.0


def main() -> int:
    chosen = options.parse()
    if "RANK" not in os.environ:
        raise StageError(
            "finetune must be started by torchrun", "torchrun --nproc_per_node N finetune.py ..."
        )
    _die_with_torchrun()
    try:
        if chosen.backend == "neuron":
            import backend_neuron

            return backend_neuron.run(chosen)
        import backend_cpu

        return backend_cpu.run(chosen)
    except StageError:
        _leave_the_word_to_the_first()
        raise


def _die_with_torchrun() -> None:
    """Ask the kernel to end this process when torchrun is killed: left alone it would train on beside a rerun."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _leave_the_word_to_the_first() -> None:
    """All processes find the same fault: one message is enough, and torchrun ends the rest once the first has spoken."""
    if os.environ["RANK"] == "0":
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    time.sleep(_DEFERENCE_SECONDS)


if __name__ == "__main__":
    run_main(main)
