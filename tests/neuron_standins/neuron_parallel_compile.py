"""Stands in for neuron_parallel_compile: collects graphs by running its arguments, and `compiles` them.

The file `refused` in the cache holds the names of graphs that fail. As the real one, it ends with 0 all the same.
"""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

STAMP = f"{time.strftime('%Y-%m-%d %H:%M:%S')}.000102: {os.getpid():5}  "


def say(logger: str, text: str, level: str = "INFO") -> None:
    print(f"{STAMP}{level} ||{logger}||: {text}", flush=True)


def main() -> int:
    flags = shlex.split(os.environ["NEURON_CC_FLAGS"])
    cache = Path(next(flag for flag in flags if flag.startswith("--cache_dir=")).partition("=")[2])
    say(
        "NEURON_PARALLEL_COMPILE",
        "Running trial run (add option to terminate trial run early; also ignore trial run's",
    )
    code = subprocess.run(sys.argv[1:], env={**os.environ, "NEURON_EXTRACT_GRAPHS_ONLY": "1"}).returncode
    if code:
        say("NEURON_PARALLEL_COMPILE", "There was an error in the training script.", "ERROR")
        return code
    refused = (cache / "refused").read_text().split() if (cache / "refused").exists() else []
    found = sorted(path.parent for path in cache.rglob("model.hlo_module.pb"))
    say("NEURON_PARALLEL_COMPILE", f"Compiling {len(found)} graphs with 2 workers")
    failed = 0
    for done, graph in enumerate(found, 1):
        say(
            "NEURON_CC_WRAPPER",
            f"Call compiler with cmd: neuronx-cc compile --framework=XLA {graph}/model.hlo_module.pb",
        )
        if graph.name in refused:
            failed += 1
            print(
                "2025-01-20T10:19:40Z [LUR015]  Compiler generated too many instructions (9530773).",
                flush=True,
            )
            say(
                "NEURON_CC_WRAPPER",
                f"Compilation failed for {graph}/model.hlo_module.pb after 0 retries.",
                "ERROR",
            )
        else:
            (graph / "model.neff").touch()
            print("Compiler status PASS", flush=True)
        left = len(found) - done
        text = (
            f"Current remaining items are {left}, locked are 0, failed are {failed}, done are {done - failed}"
        )
        say("NEURON_CACHE", f"{text}, total is {len(found)}")
    for name, number in (("graphs", len(found)), ("successful compilations", len(found) - failed)):
        say("NEURON_PARALLEL_COMPILE", f"Total {name}: {number}")
    say("NEURON_PARALLEL_COMPILE", f"Total failed compilations: {failed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
