"""known_hosts as OpenSSH reads it, and what to say about a host's key."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_tui.backend.hosts.ssh_ask import USE_OPENSSH, Ask, Cancelled, HostKeyQuestion, NeedsYou
from llama_tui.backend.hosts.ssh_config import HostConfig

CERTIFICATE = "-cert-v01@openssh.com"
REVOKED, AUTHORITY = "@revoked", "@cert-authority"


def fingerprint(blob: bytes) -> str:
    """`SHA256:...`, as ssh-keygen prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


@dataclass(frozen=True)
class Entry:
    """One line of a known_hosts file.

    Attributes:
        marker: empty, `@revoked` or `@cert-authority`.
        names: patterns with commas between, or one hashed name.
        blob: the key in SSH's wire format.
    """

    marker: str
    names: str
    key_type: str
    blob: bytes
    file: Path
    line: int

    def matches(self, name: str) -> bool:
        """Whether the line speaks of the host `name`."""
        if self.names.startswith("|1|"):
            return _hash_matches(self.names, name)
        found = False
        for pattern in self.names.lower().split(","):
            # fnmatch would read [host]:port as a set of characters.
            pure = pattern.lstrip("!").replace("[", "[[]")
            if fnmatch.fnmatchcase(name, pure):
                if pattern.startswith("!"):
                    return False
                found = True
        return found

    @property
    def place(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}"


def read_entries(files: Iterable[Path]) -> list[Entry]:
    """The lines of those files that hold a key; what cannot be read is passed over, as OpenSSH does."""
    found = []
    for file in files:
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for number, line in enumerate(lines, 1):
            entry = _parse(line, file, number)
            if entry is not None:
                found.append(entry)
    return found


def _parse(line: str, file: Path, number: int) -> Entry | None:
    words = line.split()
    marker = words.pop(0).lower() if words and words[0].startswith("@") else ""
    if len(words) < 3 or words[0].startswith("#") or marker not in ("", REVOKED, AUTHORITY):
        return None
    try:
        blob = base64.b64decode(words[2], validate=True)
    except ValueError:
        return None
    return Entry(marker, words[0], words[1], blob, file, number)


def _hash_matches(hashed: str, name: str) -> bool:
    try:
        _, _, salt, digest = hashed.split("|")[:4]
        mac = hmac.new(base64.b64decode(salt), name.encode(), hashlib.sha1).digest()
        return hmac.compare_digest(mac, base64.b64decode(digest))
    except ValueError:
        return False


class KnownHosts:
    """What is known of one host's keys, and the policy for those that are not known.

    Args:
        accepted: (name, key) pairs that were agreed to in this process, for files that cannot be written.
    """

    def __init__(self, config: HostConfig, accepted: set[tuple[str, bytes]]) -> None:
        self._config = config
        self._accepted = accepted
        self._host = (config.host_key_alias or config.hostname).lower()
        plain = config.port == 22 or config.host_key_alias is not None
        self._name = self._host if plain else f"[{self._host}]:{config.port}"
        self._all = read_entries([*config.user_known_hosts, *config.global_known_hosts])
        self._entries = [entry for entry in self._all if entry.matches(self._name)]

    def order(self, algorithms: Sequence[str]) -> tuple[str, ...]:
        """Host key algorithms as they should be offered: those first by which the host is known.

        A server with several keys would otherwise show one that is not known, and look changed. Certificates are
        asked for only where an authority is known that could vouch for them.
        """
        plain = [name for name in algorithms if not name.endswith(CERTIFICATE)]
        types = {entry.key_type for entry in self._entries if not entry.marker}
        types |= {_type(blob) for name, blob in self._accepted if name == self._name}
        first = [name for name in plain if _key_type(name) in types]
        vouched = any(entry.marker == AUTHORITY for entry in self._entries)
        certificates = [name + CERTIFICATE for name in plain] if vouched else []
        return (*certificates, *first, *(name for name in plain if name not in first))

    def verify(self, blob: bytes, certificate: bytes | None, ask: Ask) -> None:
        """Returns when the key may be trusted.

        Args:
            blob: the host's plain public key.
            certificate: the certificate around it, when the host showed one.

        Raises:
            NeedsYou: revoked, changed, or unknown and not accepted.
        """
        self._refuse_revoked(blob)
        if certificate is not None and self._vouched_for(certificate):
            return
        known = [entry for entry in self._entries if not entry.marker]
        if any(entry.blob == blob for entry in known) or (self._name, blob) in self._accepted:
            return
        if known:
            raise self._changed(blob, known)
        if self._name != self._host and self._known_without_port(blob):
            return
        self._take_unknown(blob, ask)

    def _refuse_revoked(self, blob: bytes) -> None:
        revoked = {entry.blob for entry in self._entries if entry.marker == REVOKED}
        file = self._config.revoked_host_keys
        if file is not None:
            revoked |= _read_revoked(file)
        if blob in revoked:
            raise NeedsYou(
                f"The host key of {self._name} ({_type(blob)} {fingerprint(blob)}) is marked as revoked",
                "Do not connect. Ask whoever runs the host; the key may have been stolen.",
            )

    def _vouched_for(self, certificate: bytes) -> bool:
        from llama_tui.backend.hosts.host_certificate import authority_of

        signer = authority_of(certificate, self._host)
        if signer is None:
            return False
        self._refuse_revoked(signer)
        return any(entry.marker == AUTHORITY and entry.blob == signer for entry in self._entries)

    def _known_without_port(self, blob: bytes) -> bool:
        return any(
            entry.blob == blob and not entry.marker and entry.matches(self._host) for entry in self._all
        )

    def _changed(self, blob: bytes, known: list[Entry]) -> NeedsYou:
        expected = "\n".join(
            f"  expected  {entry.key_type} {fingerprint(entry.blob)}  ({entry.place})" for entry in known
        )
        files = dict.fromkeys(str(entry.file) for entry in known)
        remove = "\n".join(f'  ssh-keygen -R "{self._name}" -f "{file}"' for file in files)
        return NeedsYou(
            f"The host key of {self._name} has changed, so this may be another machine:\n{expected}\n"
            f"  shown now {_type(blob)} {fingerprint(blob)}",
            "A head node that was replaced or patched has a new key. Ask whoever runs it for the new fingerprint; "
            f"only if it is the one above, remove the old key and connect again:\n{remove}",
        )

    def _take_unknown(self, blob: bytes, ask: Ask) -> None:
        policy = self._config.strict
        target = self._file_to_write()
        if policy == "yes":
            raise NeedsYou(
                f"{self._name} is not in known_hosts (it shows {_type(blob)} {fingerprint(blob)}), "
                "and StrictHostKeyChecking is `yes`",
                "Add its key by hand, or set StrictHostKeyChecking to `ask` for this host.",
            )
        if policy == "ask":
            others = tuple(
                dict.fromkeys(
                    entry.names if not entry.names.startswith("|") else f"a hashed name ({entry.place})"
                    for entry in self._all
                    if entry.blob == blob and not entry.marker
                )
            )
            question = HostKeyQuestion(
                self._name, _type(blob), fingerprint(blob), others, str(target) if target else ""
            )
            if not ask.confirm_host_key(question):
                raise Cancelled(f"The host key of {self._name} was not accepted", "Nothing was sent to it.")
        self._accepted.add((self._name, blob))
        if target is not None:
            append_entry(target, self._name, blob, hashed=self._config.hash_known_hosts)

    def _file_to_write(self) -> Path | None:
        files = [file for file in self._config.user_known_hosts if str(file) != os.devnull]
        return files[0] if files else None


def append_entry(file: Path, name: str, blob: bytes, *, hashed: bool = False) -> None:
    """Adds one key in one write, so that others who add at the same time lose nothing.

    A file that cannot be written is left alone: the key counts for this process only, and is asked about again.
    """
    if hashed:
        salt = os.urandom(20)
        digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
        name = f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
    line = f"{name} {_type(blob)} {base64.b64encode(blob).decode()}\n".encode()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:
        return
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        os.write(descriptor, line)
    except OSError:
        return
    finally:
        os.close(descriptor)


def _read_revoked(file: Path) -> set[bytes]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise NeedsYou(
            f"RevokedHostKeys {file} cannot be read: {error.strerror}", "Mend the setting."
        ) from None
    if data.startswith(b"SSHKRL"):
        raise NeedsYou(
            f"RevokedHostKeys {file} is a binary revocation list, which we cannot read",
            USE_OPENSSH,
        )
    found = set()
    for line in data.decode(errors="replace").splitlines():
        match = re.search(r"(?:^|\s)(AAAA[A-Za-z0-9+/]+=*)", line)
        if match and not line.lstrip().startswith("#"):
            found.add(base64.b64decode(match[1]))
    return found


def _type(blob: bytes) -> str:
    """The key type that the wire format begins with."""
    length = int.from_bytes(blob[:4], "big")
    return blob[4 : 4 + length].decode("ascii", "replace")


def _key_type(algorithm: str) -> str:
    return "ssh-rsa" if algorithm.startswith("rsa-sha2") else algorithm
