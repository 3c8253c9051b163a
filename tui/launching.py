"""What the wizard does off the UI thread when everything is answered: the token, the run, its jobs."""

from __future__ import annotations

from dataclasses import dataclass, field

from llama_tui.backend import places
from llama_tui.backend import token as token_store
from llama_tui.backend.draft import forget_draft
from llama_tui.backend.hosts.choose import HostBook
from llama_tui.backend.runs import create_run
from llama_tui.backend.settings import Settings
from llama_tui.backend.site import Site, connect
from llama_tui.backend.submitting import Tell


@dataclass(frozen=True)
class TokenWish:
    """What the Token step says.

    Attributes:
        typed: the token; empty for none.
        keep: this computer's keyring should have the typed one as well.
        asked: the step was seen, so the one that the keyring keeps is meant where none was typed. Else that one is
            only used on a host that has none.
    """

    typed: str = field(default="", repr=False)
    keep: bool = False
    asked: bool = False


def launch(settings: Settings, hosts: HostBook, token: TokenWish, tell: Tell, warn: Tell) -> str:
    """Connects, puts the token there, makes the run and submits it; gives its name. Blocks.

    Args:
        tell: what goes on.
        warn: what did not work, but holds up nothing.

    Raises:
        UserError: what went wrong; a run that was made stays.
    """
    place = places.place_of(settings)
    tell(f"connecting to {place.host or 'this machine'}")
    site = connect(place, hosts)
    try:
        places.remember(place)
        _give_token(site, settings, token, tell, warn)
        run = create_run(site, settings)
        run.submit(tell=tell)
        forget_draft()
        return run.run_id
    finally:
        site.close()


def _give_token(site: Site, settings: Settings, token: TokenWish, tell: Tell, warn: Tell) -> None:
    if token.typed:
        token_store.put(site, token.typed)
        if token.keep and not token_store.to_keyring(token.typed):
            warn("This computer's keyring did not take the token: it is kept on the host only.")
        return
    if not needs_hub(settings) or (not token.asked and token_store.is_there(site)):
        return
    tell("asking this computer's keyring for the token")
    kept = token_store.from_keyring()
    if kept:
        tell("putting the keyring's token on the host")
        token_store.put(site, kept)


def needs_hub(settings: Settings) -> bool:
    """Whether model or data set are on the hub, where a token may be needed."""
    return any(
        "/" in one and not one.startswith(("/", "~"))
        for one in (settings.model.model, settings.model.dataset)
    )
