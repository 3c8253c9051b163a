"""Keys, certificates and agents made with OpenSSH's own programs."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "", *options: str) -> Path:
    """A new key pair; `options` go to ssh-keygen."""
    argv = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path), *options]
    subprocess.run(argv, check=True)
    return path


def public(path: Path) -> str:
    """The public key's type and base64 text."""
    return " ".join(Path(f"{path}.pub").read_text().split()[:2])


def certify(authority: Path, key: Path, principals: str, *options: str) -> Path:
    """A certificate `<key>-cert.pub`; with `-h` among the options it is a host's."""
    argv = ["ssh-keygen", "-q", "-s", str(authority), "-I", "test", "-n", principals, *options, f"{key}.pub"]
    subprocess.run(argv, check=True)
    return Path(f"{key}-cert.pub")


@contextmanager
def agent(folder: Path, *keys: Path) -> Iterator[Path]:
    """A real ssh-agent that holds `keys`; its socket."""
    socket = folder / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        # Its first line comes when the socket is there.
        process.stdout.readline()
        for key in keys:
            add_to_agent(socket, str(key))
        yield socket
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def add_to_agent(socket: Path, *argv: str) -> None:
    """`ssh-add` with these arguments."""
    environment = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
    subprocess.run(["ssh-add", "-q", *argv], env=environment, stdin=subprocess.DEVNULL, check=True)
