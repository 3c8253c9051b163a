"""Users of this machine that live as long as a test."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class User:
    """A user with a home of their own."""

    name: str
    home: Path
    password: str


@contextmanager
def throw_away_user(shell: str = "/bin/sh", authorized: str = "") -> Iterator[User]:
    """A user with a password and `authorized` in ~/.ssh/authorized_keys. Skips the test where we are not root."""
    if os.geteuid() != 0:
        pytest.skip("makes a throw-away user, which needs root")
    base = Path(tempfile.mkdtemp(prefix="llama-tui-user-", dir="/tmp"))
    base.chmod(0o755)
    user = User(f"lt{secrets.token_hex(4)}", base / "home", secrets.token_urlsafe(12))
    subprocess.run(["useradd", "-m", "-d", str(user.home), "-s", shell, user.name], check=True)
    try:
        subprocess.run(["chpasswd"], input=f"{user.name}:{user.password}", text=True, check=True)
        keys = user.home / ".ssh" / "authorized_keys"
        keys.parent.mkdir()
        keys.write_text(authorized)
        yield user
    finally:
        subprocess.run(["userdel", "-f", user.name], check=True, stderr=subprocess.DEVNULL)
        shutil.rmtree(base, ignore_errors=True)
