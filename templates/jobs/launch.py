"""torchrun, with an end that people and scripts can read.

    launch.py --nnodes N --nproc_per_node N [torchrun's other options] finetune.py ARGS

torchrun itself ends with 1 and a traceback of its own whatever happened; this ends with 143 after SIGTERM, and else with
the exit code of the process that failed first, whose own message stands in the log.
"""

from __future__ import annotations

import logging
import os
import signal
import sys

from common import EXIT_FAILED, EXIT_TERMINATED, print_error

# How long the processes have for their last checkpoint after SIGTERM, where the scheduler leaves them as much; torchrun's
# own 30 s are short for a step and a checkpoint on a slow disk. Older torch does not read it.
_SECONDS_TO_SAVE = "120"


def main() -> int:
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _SECONDS_TO_SAVE)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # Which process failed, and with what, is told below in one line.
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    try:
        run(parse_args(sys.argv[1:]))
    except SignalException as stopped:
        return EXIT_TERMINATED if stopped.sigval == signal.SIGTERM else EXIT_FAILED
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        code = failure.exitcode
        if code < 0:
            name = signal.Signals(-code).name
            hint = "SIGKILL is mostly the kernel's, when memory ran out" if name == "SIGKILL" else ""
            print_error(f"process {rank} of the training was ended by {name}", hint)
            return EXIT_TERMINATED if -code == signal.SIGTERM else EXIT_FAILED
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
