"""The arrow points one way, and importing costs little: checked in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("textual", "paramiko", "torch", "transformers", "keyring", "plotext")


def imported_by(code: str) -> set[str]:
    script = f"import sys, json; {code}; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd="/"
    )
    return set(json.loads(answer.stdout.splitlines()[-1]))


def test_the_command_line_imports_no_screen_and_no_ssh() -> None:
    code = (
        "import llama_tui.tui.main, llama_tui.backend.live\n"
        "from click.testing import CliRunner\n"
        "from llama_tui.backend.cli.main import cli\n"
        "assert CliRunner().invoke(cli, ['--version']).exit_code == 0"
    )
    script = f"exec({code!r})"
    assert not imported_by(script) & set(HEAVY)


def test_the_screen_imports_no_torch_and_no_ssh() -> None:
    found = imported_by(
        "import llama_tui.tui.app, llama_tui.tui.screens.wizard, llama_tui.tui.screens.monitor"
    )
    assert "textual" in found
    assert not found & {"torch", "transformers", "paramiko"}


def test_the_agent_needs_the_standard_library_only() -> None:
    code = "import runpy; runpy.run_path('%s', run_name='agent')" % (ROOT / "backend/agent.py")
    third_party = imported_by(code) - set(sys.stdlib_module_names) - {"__main__", "sitecustomize"}
    assert not {name for name in third_party if not name.startswith(("_", "__editable__"))} - {
        "distutils-precedence"
    }


def test_every_package_is_in_the_wheel() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    for folder in ("backend", "tui"):
        for init in (ROOT / folder).rglob("__init__.py"):
            dotted = ".".join(init.parent.relative_to(ROOT).parts)
            assert f"llama_tui.{dotted}" in listed
