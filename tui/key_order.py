"""Keys one after another: what is typed behind a key that leads elsewhere gets there, however fast it was typed."""

from __future__ import annotations

from collections import deque
from functools import partial

from textual import events, on
from textual.app import App
from textual.message import Message
from textual.message_pump import MessagePump

# A key comes back to the app when it has passed all who may take it; then once more, behind what these did about it.
ROUNDS = 2
# Seconds after which a key that has not come back is looked for: the next one is handed over where its widget is gone,
# and else, on a machine with much to do, after so many looks.
LONGEST, LOOKS = 1.0, 10


class DealtWith(Message):
    """Follows a key from its widget up to the app."""

    def __init__(self, turn: int, target: MessagePump, rounds: int) -> None:
        super().__init__()
        self.turn, self.target, self.rounds = turn, target, rounds


class KeysInOrder(App[None]):
    """Hands a key over when the one before it has been dealt with.

    Textual hands each key to the widget that has the focus when it comes, and runs what it is bound to later: of keys
    that come at once, all would go to the first screen. The first one waits for `begin_keys`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: deque[events.Event] = deque()
        self._turn = 0
        self._busy = False
        self._begun = False
        self._watched = 0
        self._target: MessagePump = self

    @property
    def busy(self) -> bool:
        """Whether a key is on its way, in a widget that is still there."""
        return self._busy and self._target.is_running

    async def on_event(self, event: events.Event) -> None:
        """Holds a key back while another one is on its way."""
        if not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
            return
        self._held.append(event)
        if self._busy:
            self._watch()
        elif self._begun:
            await self._next_key()

    async def begin_keys(self) -> None:
        """Hands over what was typed until now, and from here on what is typed."""
        self._begun = True
        await self._next_key()

    async def _next_key(self) -> None:
        self._busy = bool(self._held)
        if not self._held:
            return
        event = self._held.popleft()
        self._turn += 1
        self._target = self.focused or self.screen
        if self._held:
            self._watch()
        message = DealtWith(self._turn, self._target, ROUNDS)
        await super().on_event(event)
        self._follow(message)

    def _follow(self, message: DealtWith) -> None:
        # A widget that is gone takes no messages.
        if not message.target.post_message(message):
            self.post_message(message)

    @on(DealtWith)
    async def _came_back(self, message: DealtWith) -> None:
        if message.turn != self._turn or not self._busy:
            return
        if message.rounds > 1:
            self._follow(DealtWith(message.turn, message.target, message.rounds - 1))
        else:
            await self._next_key()

    def _watch(self) -> None:
        if self._watched != self._turn:
            self._watched = self._turn
            self.set_timer(LONGEST, partial(self._look, self._turn, LOOKS))

    async def _look(self, turn: int, looks: int) -> None:
        if not self._busy or turn != self._turn:
            return
        if looks > 1 and self._target.is_running:
            self.set_timer(LONGEST, partial(self._look, turn, looks - 1))
        else:
            await self._next_key()
