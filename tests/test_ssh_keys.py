"""Key files that are of no use, and lists of revoked keys that we cannot read."""

import base64
import subprocess
from pathlib import Path

import paramiko
import pytest

from llama_tui.backend.hosts.known_hosts import KnownHosts
from llama_tui.backend.hosts.ssh_ask import NeedsYou
from llama_tui.backend.hosts.ssh_config import HostConfig
from llama_tui.backend.hosts.ssh_keys import FIDO, LockedKey, UnusableKey, public_key, read_private
from tests.ssh.answers import Answers
from tests.ssh.keys import make_key, public


def fido_key() -> bytes:
    """The file that ssh-keygen writes for a key in a FIDO token."""
    half = paramiko.Message()
    for text in (b"sk-ssh-ed25519@openssh.com", bytes(32), b"ssh:"):
        half.add_string(text)
    private = paramiko.Message()
    private.add_int(7)
    private.add_int(7)
    private.add_bytes(half.asbytes())
    private.add_byte(b"\x01")
    for text in (b"handle", b"", b"comment"):
        private.add_string(text)
    file = paramiko.Message()
    file.add_bytes(b"openssh-key-v1\0")
    for text in (b"none", b"none", b""):
        file.add_string(text)
    file.add_int(1)
    file.add_string(half.asbytes())
    file.add_string(private.asbytes())
    body = base64.encodebytes(file.asbytes())
    return b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + body + b"-----END OPENSSH PRIVATE KEY-----\n"


def test_a_fido_key_is_called_so() -> None:
    with pytest.raises(UnusableKey, match=FIDO):
        read_private(fido_key(), None)


def test_a_locked_key_tells_its_public_half(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key", "ed25519", "secret")
    expected = base64.b64decode(public(key).split()[1])
    # A stale file beside it must not be believed.
    make_key(tmp_path / "other")
    Path(f"{key}.pub").write_text(public(tmp_path / "other"))
    assert public_key(key) == expected
    with pytest.raises(LockedKey):
        read_private(key.read_bytes(), None)
    assert read_private(key.read_bytes(), "secret").asbytes() == expected


def test_a_binary_revocation_list_is_not_passed_over(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    revoked = tmp_path / "revoked"
    subprocess.run(["ssh-keygen", "-q", "-k", "-f", str(revoked), f"{key}.pub"], check=True)
    config = HostConfig("a", "a", 22, "me", revoked_host_keys=revoked, strict="no")
    with pytest.raises(NeedsYou, match="binary revocation list"):
        KnownHosts(config, set()).verify(base64.b64decode(public(key).split()[1]), None, Answers())
