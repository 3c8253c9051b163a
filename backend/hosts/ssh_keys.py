"""The keys that can let us in: an agent's, key files and certificates, in OpenSSH's order. Imports paramiko."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.hazmat.primitives.serialization.ssh import (
    SSHCertificate,
    load_ssh_private_key,
    load_ssh_public_identity,
)
from paramiko.agent import AgentKey, AgentSSH

from llama_tui.backend.hosts.known_hosts import CERTIFICATE, fingerprint
from llama_tui.backend.hosts.ssh_config import HostConfig

_AGENT_ANSWERS_WITHIN = 10.0
# A person may have to touch a token or confirm in a window.
_AGENT_SIGNS_WITHIN = 120.0

# Asks for a key's passphrase; None when there is none to be had.
AskPassphrase = Callable[[Path, bool], str | None]


FIDO = "a FIDO key"


class LockedKey(Exception):
    """The key file needs a passphrase, or another one."""


class UnusableKey(Exception):
    """The key file is of no use to us; the text says why."""


class Agent(AgentSSH):
    """The keys of an ssh-agent at a socket of our choice; none when nobody answers there."""

    def __init__(self, path: str | None) -> None:
        super().__init__()
        if path is None:
            return
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_AGENT_ANSWERS_WITHIN)
            connection.connect(path)
            self._connect(connection)  # type: ignore[attr-defined]
            connection.settimeout(_AGENT_SIGNS_WITHIN)
        except (OSError, paramiko.SSHException):
            connection.close()

    def held(self) -> list[AgentKey]:
        """In the agent's own order."""
        return [_AgentKey(key.agent, key.blob, key.comment) for key in self.get_keys()]

    def close(self) -> None:
        """Hangs up."""
        self._close()  # type: ignore[attr-defined]


class _AgentKey(AgentKey):
    """An agent's key that shows a certificate as such, and whose refusal to sign costs this key only."""

    def asbytes(self) -> bytes:
        # paramiko would show the bare key, and the agent may hold none but the certificate.
        return bytes(self.blob)

    def sign_ssh_data(self, data: bytes, algorithm: str | None = None) -> bytes:  # type: ignore[override]
        try:
            return bytes(super().sign_ssh_data(data, algorithm))
        except (OSError, paramiko.SSHException):
            # An exception here would end paramiko's thread; an empty signature is refused by the server.
            return b""


@dataclass(frozen=True)
class Identity:
    """One thing to offer.

    Attributes:
        label: what to call it in a message.
        blob: the public key or certificate, in wire format; empty when only the private key tells.
        unlock: gives what signs, asking for a passphrase where one is needed. Raises UnusableKey.
        in_agent: an agent signs, which may ask a person to confirm.
    """

    label: str
    blob: bytes
    unlock: Callable[[AskPassphrase], paramiko.PKey | None]
    in_agent: bool = False

    @property
    def key_type(self) -> str:
        """The type that the wire format begins with."""
        return wire_type(self.blob)


def wire_type(blob: bytes) -> str:
    """The key type that a wire format begins with."""
    return blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode("ascii", "replace")


def identities(config: HostConfig, agent: Agent) -> Iterator[Identity]:
    """OpenSSH's order: certificates, the agent's keys that the config names, its others, then key files."""
    files = {path: public_key(path) for path in config.identity_files if path.is_file()}
    held = {key.asbytes(): key for key in agent.held()}
    beside = [path.with_name(path.name + "-cert.pub") for path in config.identity_files]
    for path in (*config.certificate_files, *beside):
        certified = _certified(path, files, held)
        if certified is not None:
            yield certified
    named = [blob for blob in files.values() if blob in held]
    others = [] if config.identities_only else [blob for blob in held if blob not in named]
    if config.identities_only:
        named += [blob for blob in held if _plain(blob) in files.values() and blob not in named]
    for blob in dict.fromkeys([*named, *others]):
        yield _from_agent(held[blob])
    for path, blob in files.items():
        if blob not in held and not _is_public(path):
            yield _from_file(path, blob)


def _from_agent(key: AgentKey) -> Identity:
    comment = getattr(key, "comment", "") or fingerprint(key.asbytes())
    return Identity(f"{comment} (agent)", key.asbytes(), lambda _: key, in_agent=True)


def _from_file(path: Path, blob: bytes) -> Identity:
    return Identity(str(path), blob, lambda ask: unlock(path, ask))


def _certified(path: Path, files: dict[Path, bytes], held: dict[bytes, AgentKey]) -> Identity | None:
    blob = _public_line(path)
    plain = _plain(blob)
    if not blob or plain == blob:
        return None
    signers = [file for file, public in files.items() if public == plain and not _is_public(file)]

    def signer(ask: AskPassphrase) -> paramiko.PKey | None:
        key = held[plain] if plain in held else unlock(signers[0], ask)
        if key is not None:
            key.public_blob = paramiko.PublicBlob(wire_type(blob), blob)  # type: ignore[attr-defined]
        return key

    if plain not in held and not signers:
        return None
    return Identity(f"{path}{_expired(path)}", blob, signer, in_agent=plain in held)


def _expired(path: Path) -> str:
    with contextlib.suppress(ValueError, OSError, UnsupportedAlgorithm):
        found = load_ssh_public_identity(path.read_bytes())
        if isinstance(found, SSHCertificate) and found.valid_before < time.time():
            ended = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.valid_before))
            return f" (expired {ended})"
    return ""


def _plain(blob: bytes) -> bytes:
    """The bare key inside a certificate; any other key is its own."""
    if not wire_type(blob).endswith(CERTIFICATE):
        return blob
    with contextlib.suppress(ValueError, UnsupportedAlgorithm):
        found = load_ssh_public_identity(wire_type(blob).encode() + b" " + base64.b64encode(blob))
        if isinstance(found, SSHCertificate):
            line = found.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
            return base64.b64decode(line.split()[1])
    return blob


def _public_line(path: Path) -> bytes:
    try:
        words = path.read_text(errors="replace").split()
        return base64.b64decode(words[1], validate=True)
    except (OSError, ValueError, IndexError):
        return b""


def _is_public(path: Path) -> bool:
    """An IdentityFile may be a public key, whose private half is in the agent."""
    with contextlib.suppress(OSError):
        return b"PRIVATE KEY-----" not in path.read_bytes()
    return True


def public_key(path: Path) -> bytes:
    """The public half of an identity file, without its passphrase; empty when only the private half tells."""
    try:
        data = path.read_bytes()
    except OSError:
        return b""
    if _is_public(path):
        return _public_line(path)
    if data.startswith(b"-----BEGIN OPENSSH"):
        with contextlib.suppress(ValueError, IndexError, paramiko.SSHException):
            return _public_half(data)
    beside = path.with_name(path.name + ".pub")
    if beside.is_file():
        return _public_line(beside)
    with contextlib.suppress(LockedKey, UnusableKey):
        return bytes(read_private(data, None).asbytes())
    return b""


def _public_half(data: bytes) -> bytes:
    """OpenSSH's format keeps the public key in clear before the encrypted part."""
    message = paramiko.Message(_body(data))
    message.get_bytes(len(b"openssh-key-v1\0"))
    for _ in ("cipher", "kdf", "kdf options"):
        message.get_binary()
    message.get_int()
    return bytes(message.get_binary())


def _body(data: bytes) -> bytes:
    lines = [line for line in data.splitlines() if not line.startswith(b"-----")]
    with contextlib.suppress(ValueError):
        return base64.b64decode(b"".join(lines))
    return b""


def unlock(path: Path, ask: AskPassphrase) -> paramiko.PKey | None:
    """The private key of a file; None when no passphrase was given.

    Raises:
        UnusableKey: it cannot be read, others may read it, or it is of a kind that we have not.
    """
    try:
        mode = path.stat()
        data = path.read_bytes()
    except OSError as error:
        raise UnusableKey(error.strerror or str(error)) from None
    if mode.st_uid == os.getuid() and stat.S_IMODE(mode.st_mode) & 0o077:
        raise UnusableKey(f"ignored, since others may read it: chmod 600 {path}")
    passphrase, again = None, False
    while True:
        try:
            return read_private(data, passphrase)
        except LockedKey:
            passphrase = ask(path, again)
            again = True
            if not passphrase:
                return None


def read_private(data: bytes, passphrase: str | None) -> paramiko.PKey:
    """A private key in any of the usual formats (OpenSSH, PEM, PKCS 8).

    Raises:
        LockedKey: the passphrase is missing or wrong.
        UnusableKey: of a kind that we have not, or damaged.
    """
    load = load_ssh_private_key if data.startswith(b"-----BEGIN OPENSSH") else load_pem_private_key
    try:
        key = load(data, passphrase.encode() if passphrase else None)
    except TypeError:
        raise LockedKey from None
    except (ValueError, UnsupportedAlgorithm) as error:
        if passphrase and isinstance(error, ValueError):
            raise LockedKey from None
        what = FIDO if b"sk-ssh-" in _body(data) or b"sk-ecdsa-" in _body(data) else str(error)
        raise UnusableKey(f"not a key that we can use ({what})") from None
    kind: type[paramiko.PKey]
    if isinstance(key, Ed25519PrivateKey):
        kind = paramiko.Ed25519Key
    elif isinstance(key, EllipticCurvePrivateKey):
        kind = paramiko.ECDSAKey
    elif isinstance(key, RSAPrivateKey):
        kind = paramiko.RSAKey
    else:
        raise UnusableKey("not an ed25519, ecdsa or rsa key")
    # paramiko reads fewer formats than cryptography: it gets the one that it knows, in memory only.
    text = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return kind.from_private_key(io.StringIO(text))
