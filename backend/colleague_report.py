"""A failed run as one text that can be handed to a colleague: everything that matters, and no secrets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llama_tui.backend.plain import printable, settled
from llama_tui.backend.report_text import status_text
from llama_tui.backend.runs import Run, Snapshot
from llama_tui.backend.settings_file import to_toml
from llama_tui.backend.stages import Stage

if TYPE_CHECKING:
    from llama_tui.backend.diagnosis.diagnose import Diagnosis

LOG_LINES = 120
LOG_BYTES = 24 * 1024

_SECRETS = (
    re.compile(r"\bhf_[A-Za-z0-9]{8,}"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}"),
    re.compile(r"\b(?:gh[pousr]|github_pat)_[A-Za-z0-9_]{16,}"),
    re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"),
    re.compile(r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*"),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
    re.compile(r"(?i)(?<=bearer )[\w.~+/-]{8,}=*"),
    re.compile(
        r"(?i)(?<![a-z])((?:[\w-]*_)?(?:password|passwd|secret(?:_access)?_key|api_?key|(?:auth|access|session|hf|hub|wandb)_?token|token))"
        r"(['\"]?\s*[=:]\s*['\"]?)[^\s'\",;]{6,}"
    ),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
)


def without_secrets(text: str) -> str:
    """The text with tokens, keys, passwords and credentials in addresses replaced by [removed]."""
    for secret in _SECRETS:
        text = secret.sub(r"\1\2[removed]" if secret.groups else "[removed]", text)
    return text


def colleague_report(run: Run, snapshot: Snapshot, stage: Stage, diagnosis: Diagnosis | None) -> str:
    """The report. Blocks for as long as it takes to read the log's end; raises LinkLost."""
    view = snapshot.view(stage)
    log = run.layout.log(stage, max(1, view.attempt))
    there = run.site.link.collect([log])
    text = run.site.link.call("read", path=log, offset=-LOG_BYTES, limit=LOG_BYTES)["text"] if there else ""
    return report_text(to_toml(run.settings), snapshot, run.site.now(), stage, diagnosis, text, log)


def report_text(
    settings: str,
    snapshot: Snapshot,
    now: float,
    stage: Stage,
    diagnosis: Diagnosis | None,
    log: str,
    log_path: str,
) -> str:
    """The parts as Markdown."""
    lines = [settled(line.rstrip("\r")) for line in log.splitlines()[-LOG_LINES:]]
    parts = [
        f"# llama-tui run {snapshot.run_id}",
        f"## Stages\n\n```\n{status_text(snapshot, now)}\n```",
    ]
    if diagnosis is not None:
        sure = "" if diagnosis.sure else " (not certain)"
        parts.append(
            f"## What went wrong: {diagnosis.kind}{sure}\n\n{diagnosis.cause}\n\nWhat to do: {diagnosis.fix}"
        )
    parts.append(f"## End of the log of {stage}\n\n{log_path}\n\n```\n" + "\n".join(lines) + "\n```")
    parts.append(f"## settings.toml\n\n```toml\n{settings.strip()}\n```")
    return without_secrets(printable("\n\n".join(parts))) + "\n"
