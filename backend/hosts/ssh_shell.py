"""One command line that every login shell understands alike."""

from __future__ import annotations

import re

from llama_tui.backend.hosts.ssh_ask import NeedsYou


def remote_command(command: str, as_user: str | None = None) -> tuple[str, bytes]:
    """What to execute, and what to send on its stdin first, to run `command` with the host's /bin/sh.

    csh, fish and sh read quotes, backslashes and exclamation marks differently. So the login shell gets a fixed line
    without any of them, and /bin/sh takes the command from stdin: dd reads byte by byte, never too much. There is no
    dollar sign either, since `sudo -i` lets the user's login shell expand it.

    Args:
        as_user: continue as this user, through `sudo -iu`, which must not ask for a password.

    Raises:
        NeedsYou: `as_user` is no user name.
    """
    script = command.encode("utf-8", "surrogateescape")
    line = f"/bin/sh -c 'eval \"`dd bs=1 count={len(script)} 2>/dev/null`\"'"
    if as_user is not None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", as_user):
            raise NeedsYou(f"{as_user!r} cannot be a user's name", "Name the user to continue as.")
        line = f"sudo -n -iu {as_user} -- {line}"
    return f"exec {line}", script
