"""Stand-ins for what only a Trainium node has, for rehearsals of the neuron stack's scripts on a cluster without chips.

They lie in the environment directory that a test's own settings name, and on the PATH of its own cluster. Nothing is
computed: they print what the real programs print, meet where the real ones would meet, and fail when told to.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

from llama_tui.backend.settings import Stack
from llama_tui.backend.stack_file import load_stack

HERE = Path(__file__).parent
_PYTHON = """#!/bin/sh
# Asked what is installed and what can be imported, it is a Trainium node's; programs run in the cpu stack's.
if [ "$1" = -c ]; then PYTHONPATH={pins} exec {plain} -S "$@"; fi
exec {cpu} "$@"
"""
_NEURON_LS = """#!/bin/sh
cat <<'TABLE'
+--------+--------+--------+
| NEURON | NEURON | NEURON |
| DEVICE | CORES  | MEMORY |
+--------+--------+--------+
| 0      | 2      | 32 GB  |
+--------+--------+--------+
TABLE
"""
_RANGES = {"datasets": "4.4.1", "safetensors": "0.6.2"}


def make_environment(folder: Path, cpu_python: Path) -> Path:
    """What a machine image's /opt/aws_neuronx_venv_* would be: the pins by name, python, neuron_parallel_compile."""
    stack = json.loads(load_stack(Stack.NEURON).as_json)
    pins = folder / "pins"
    for requirement in stack["requirements"]:
        name, _, version = re.sub(r"\[.*?\]", "", requirement).partition("==")
        name = re.split(r"[<>=]", name)[0]
        info = pins / f"{name}-{version or _RANGES[name]}.dist-info"
        info.mkdir(parents=True)
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version or _RANGES[name]}\n"
        (info / "METADATA").write_text(text)
    for module in stack["imports"]:
        package = pins / module.replace(".", "/")
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text("__version__ = 'stand-in'\n")
    words = {"pins": pins, "plain": sys.base_prefix + "/bin/python3", "cpu": cpu_python}
    quoted = {name: shlex.quote(str(word)) for name, word in words.items()}
    program(folder / "bin/python", _PYTHON.format(**quoted))
    program(
        folder / "bin/neuron_parallel_compile", f"#!{sys.executable}\n" + own("neuron_parallel_compile.py")
    )
    return folder


def make_node_programs(folder: Path) -> Path:
    """What the Neuron tools put on a node's PATH."""
    program(folder / "neuron-ls", _NEURON_LS)
    return folder


def put_in(run: Path) -> None:
    """The training's worker instead of the real one: optimum-neuron does not import without the Neuron packages."""
    shutil.copy(HERE / "finetune.py", run / "jobs/finetune.py")
    (run / "behave").mkdir()


def program(path: Path, text: str) -> None:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def own(name: str) -> str:
    """The text of one of the stand-ins here."""
    return (HERE / name).read_text()
