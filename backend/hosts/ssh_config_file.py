"""ssh_config files read without OpenSSH: for names to complete, and for machines that have no `ssh`."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from llama_tui.backend.hosts.paramiko_import import allow_match_exec
from llama_tui.backend.hosts.ssh_ask import NeedsYou

_MAX_DEPTH = 16
_MATCHES = {"all", "canonical", "final", "host", "originalhost", "user", "localuser", "exec"}


def config_files(config_file: Path | None) -> list[Path]:
    """The files that OpenSSH would read."""
    if config_file is not None:
        return [config_file]
    return [Path.home() / ".ssh" / "config", Path("/etc/ssh/ssh_config")]


def split_words(text: str) -> list[str]:
    """The words of a line, with quotes taken off as far as they pair."""
    try:
        return shlex.split(text, comments=True)
    except ValueError:
        return text.split()


def read_lines(path: Path, depth: int = 0) -> list[str]:
    """A config's lines with those of its Includes in their place; none when it cannot be read.

    After an Include the block around it is opened again, for the included file may have opened others.
    """
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    block, found = "Host *", []
    for line in lines:
        keyword, _, value = line.strip().replace("=", " ", 1).partition(" ")
        if keyword.lower() in ("host", "match"):
            block = line
        if keyword.lower() != "include":
            found.append(line)
        elif depth < _MAX_DEPTH:
            for file in _included(path, value):
                found += read_lines(file, depth + 1)
            found.append(block)
    return found


def _included(path: Path, value: str) -> list[Path]:
    base = path.parent if path.is_relative_to("/etc/ssh") else Path.home() / ".ssh"
    names: list[str] = []
    for word in split_words(value):
        # Path.glob takes no absolute pattern.
        names += sorted(glob.glob(str(base / Path(word).expanduser())))  # noqa: PTH207
    return [Path(name) for name in names]


def lookup(host: str, config_file: Path | None) -> Mapping[str, Sequence[str]]:
    """The options of `host` by lower-case keyword, read with paramiko's parser.

    Raises:
        NeedsYou: a line cannot be parsed.
    """
    allow_match_exec()
    import paramiko

    lines = [line for path in config_files(config_file) for line in [*read_lines(path), "Host *"]]
    try:
        config = paramiko.SSHConfig.from_text("\n".join(map(_without_unknown_match, lines)))
        found = config.lookup(host)
    except (paramiko.SSHException, ValueError, KeyError, OSError) as error:
        raise NeedsYou(f"The SSH settings of {host} cannot be read: {error}", "Mend the file.") from None
    return {
        key: [str(item) for item in value] if isinstance(value, list) else [str(value)]
        for key, value in found.items()
        if value is not None
    }


def _without_unknown_match(line: str) -> str:
    """paramiko takes a Match keyword that it does not know for one that holds: such a block must hold for nobody."""
    words = split_words(line)
    if not words or words[0].lower() != "match":
        return line
    keywords = {word.lower().lstrip("!") for word in words[1::2]}
    if words[1:] and words[1].lower().lstrip("!") in ("all", "canonical", "final"):
        keywords = {words[1].lower().lstrip("!"), *(word.lower().lstrip("!") for word in words[2::2])}
    return line if keywords <= _MATCHES else "Host !*"
