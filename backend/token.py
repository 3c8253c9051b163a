"""The Hugging Face token: checked for its form, put into one 0600 file on the host, kept in the keyring or nowhere."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable
from typing import TypeVar

from llama_tui.backend.errors import UserError
from llama_tui.backend.site import Site

Answer = TypeVar("Answer")

# A locked keyring asks its owner, who may not be there: after so many seconds it is as if there were none.
PATIENCE = 10.0
_SERVICE, _USER = "llama-tui", "hf_token"
_FORM = re.compile(r"hf_[A-Za-z0-9]{10,200}")


class TokenError(UserError):
    """What was given is no token. The message never repeats it."""

    title = "Not a token"


def checked(text: str) -> str:
    """The token without blanks around it.

    Raises:
        TokenError: it does not have a token's form.
    """
    token = text.strip()
    if not _FORM.fullmatch(token):
        raise TokenError(
            "A Hugging Face token begins with hf_ and goes on with letters and digits, on one line",
            "Copy it again from your settings on the hub, page Access Tokens.",
        )
    return token


def put(site: Site, token: str) -> None:
    """Writes the token's file on the host (0600, in a 0700 directory outside every run)."""
    folder = site.workspace.token.rsplit("/", 1)[0]
    site.link.call("mkdir", path=folder)
    site.link.run(["chmod", "700", folder])
    site.link.write_text(site.workspace.token, checked(token) + "\n", mode=0o600)


def remove(site: Site) -> None:
    """Takes the token off the host."""
    site.link.run(["rm", "-f", "--", site.workspace.token])


def is_there(site: Site) -> bool:
    """Whether the host has a token of ours already."""
    return site.link.run(["test", "-s", site.workspace.token]).exit == 0


def from_keyring() -> str | None:
    """The token that this computer's keyring keeps; None where there is none, no keyring, or no answer in time."""
    import keyring

    found = _patiently(lambda: keyring.get_password(_SERVICE, _USER))
    try:
        return checked(found) if found else None
    except TokenError:
        return None


def to_keyring(token: str) -> bool:
    """Keeps the token in this computer's keyring; False where that cannot be done."""
    import keyring

    secret = checked(token)

    def keep() -> bool:
        keyring.set_password(_SERVICE, _USER, secret)
        return True

    return bool(_patiently(keep))


def forget() -> bool:
    """Takes the token out of this computer's keyring; False where that cannot be done, or there is none."""
    import keyring

    def take_out() -> bool:
        keyring.delete_password(_SERVICE, _USER)
        return True

    return bool(_patiently(take_out))


def _patiently(ask: Callable[[], Answer]) -> Answer | None:
    """What a keyring answers; None when it cannot, or asks its owner for longer than PATIENCE."""
    answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put(ask())
        except Exception:
            # Keyrings are plug-ins of the desktop: they raise whatever their own libraries do.
            answers.put(None)

    threading.Thread(target=run, name="keyring", daemon=True).start()
    try:
        return answers.get(timeout=PATIENCE)
    except queue.Empty:
        return None
