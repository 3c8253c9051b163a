"""What a connection may have to ask a person, and the errors that only a person can mend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llama_tui.backend.errors import HostError

USE_OPENSSH = "The system's own ssh can do this: set where.ssh to system."


def printable(text: str) -> str:
    """What another machine says, without control characters, which could draw something else on a terminal."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else "?" for char in text.replace("\r\n", "\n")
    )


@dataclass(frozen=True)
class Prompt:
    """One field to fill in.

    Attributes:
        text: what is asked for, for example `Password`.
        echo: whether what is typed may be seen; False for anything secret.
    """

    text: str
    echo: bool = False


@dataclass(frozen=True)
class HostKeyQuestion:
    """An unknown host key that a person has to decide on.

    Attributes:
        host: the name it would be stored under, for example `[10.0.0.5]:2222`.
        key_type: for example `ssh-ed25519`.
        fingerprint: `SHA256:...`, as the administrator or `ssh-keygen -lf` says it.
        known_as: other names under which this very key is known already.
        stored_in: the file that will remember it; empty when none will.
    """

    host: str
    key_type: str
    fingerprint: str
    known_as: tuple[str, ...] = ()
    stored_in: str = ""


class Ask(Protocol):
    """Asks a person. Called on threads of ours, never on the UI's, and may take as long as it takes."""

    def secret(self, title: str, prompts: list[Prompt]) -> list[str] | None:
        """One answer for each prompt, or None to give up the connection. An empty passphrase skips its key."""

    def confirm_host_key(self, question: HostKeyQuestion) -> bool:
        """Whether to trust the key from now on."""


class Nobody:
    """Nobody is there to ask: what is not known without asking, fails."""

    def secret(self, title: str, prompts: list[Prompt]) -> list[str] | None:  # noqa: ARG002
        return None

    def confirm_host_key(self, question: HostKeyQuestion) -> bool:  # noqa: ARG002
        return False


class NeedsYou(HostError):
    """Trying again by itself is no use: settings, a host key or a login need a person."""

    title = "The host needs you"


class Cancelled(NeedsYou):
    """The person did not answer."""

    title = "Cancelled"
