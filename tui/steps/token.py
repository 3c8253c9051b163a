"""The Token step: typed unseen, kept in memory until launch, never in the settings."""

from __future__ import annotations

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Button, Input, Label, Static

from llama_tui.backend import token as token_store
from llama_tui.tui.background import in_background
from llama_tui.tui.launching import TokenWish
from llama_tui.tui.steps.pane import StepPane
from llama_tui.tui.widgets.choice import Choice
from llama_tui.tui.widgets.fields import NO, YES

HELP = "Typed unseen; it begins with hf_. Make one on the hub: Settings, Access Tokens, a read token."
KEYRING_HELP = "Puts the token that you type into this computer's keyring, for the next run."
LOOKING = "… asking this computer's keyring"
KEPT = "✓ kept in this computer's keyring: used unless you type another"
NOT_KEPT = "This computer's keyring keeps no token."
FORGOTTEN = "✓ this computer's keyring keeps no token any more"
STAYS = "✗ this computer's keyring did not let go of it"


class TokenPane(StepPane):
    """Asks for the token, and says when the keyring has one."""

    def compose_more(self) -> ComposeResult:
        with Horizontal(classes="field-line"):
            yield Label("Token", classes="field-label")
            yield Input(password=True, placeholder="hf_…, or empty", compact=True, id="token")
        yield Static("", id="token-problem", classes="problem", markup=False)
        with Horizontal(classes="field-line"):
            yield Label("Keep in keyring", classes="field-label")
            yield Choice([NO, YES], NO, id="keyring")
        yield Static(LOOKING, id="kept", markup=False)
        yield Button("Forget the kept token", id="forget", compact=True)

    def on_mount(self) -> None:
        """Looks for a kept token; the step can be used meanwhile."""
        self.query_one("#forget").display = False
        self._look()

    @work(exclusive=True, group="keyring", exit_on_error=False)
    async def _look(self) -> None:
        # Only whether there is one: the token itself is fetched when it is used.
        kept = await in_background(lambda: token_store.from_keyring() is not None)
        self._tell(KEPT if kept else NOT_KEPT, kept)

    def _tell(self, words: str, kept: bool) -> None:
        self.query_one("#kept", Static).update(words)
        button = self.query_one("#forget", Button)
        if button.has_focus and not kept:
            self.focus_first()
        button.display = kept

    @on(Button.Pressed, "#forget")
    @work(exclusive=True, group="keyring", exit_on_error=False)
    async def forget(self) -> None:
        """Takes the token out of this computer's keyring."""
        self._tell(LOOKING, False)
        gone = await in_background(token_store.forget)
        self._tell(FORGOTTEN if gone else STAYS, not gone)

    def stops(self) -> list[Widget]:
        return [self.query_one("#token", Input), self.query_one("#keyring", Choice)]

    def help_of(self, widget: Widget) -> str:
        """What to know at a part of this step."""
        return {"token": HELP, "keyring": KEYRING_HELP}.get(widget.id or "", "")

    @property
    def wish(self) -> TokenWish:
        """What to do at launch. Raises TokenError."""
        return TokenWish(self._typed, self.query_one("#keyring", Choice).value == YES, asked=True)

    @property
    def _typed(self) -> str:
        text = self.query_one("#token", Input).value
        return token_store.checked(text) if text.strip() else ""

    @property
    def problem(self) -> str:
        """What is wrong with it, in words that do not repeat it."""
        try:
            _ = self._typed
        except token_store.TokenError as error:
            return f"{error.message}. {error.hint}"
        return ""

    @on(Input.Blurred, "#token")
    def check(self) -> None:
        """Says what is wrong as the field is left."""
        self.query_one("#token-problem", Static).update(f"✗ {self.problem}" if self.problem else "")
