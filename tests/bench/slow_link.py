"""A slow network on the loopback: a TCP relay with a delay and a bandwidth, which counts the bytes it carries."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Self

_TURN = 4096


class SlowLink:
    """Relays a port of its own to `target` on 127.0.0.1; a context manager.

    Args:
        target: the port that it leads to.
        round_trip: seconds there and back.
        bandwidth: bits per second each way, shared by all connections; 0 for no limit.
    """

    def __init__(self, target: int, round_trip: float = 0.0, bandwidth: float = 0.0) -> None:
        self.port = 0
        self.bytes = 0
        self._target, self._delay, self._bandwidth = target, round_trip / 2, bandwidth
        # When each direction has sent all that it took.
        self._free = {"up": 0.0, "down": 0.0}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="slow link", daemon=True)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _accept(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        # The handshake of TCP itself.
        await asyncio.sleep(2 * self._delay)
        far, there = await asyncio.open_connection("127.0.0.1", self._target)
        # Whoever ends the link does so in mid flight.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(self._carry(near, there, "up"), self._carry(far, back, "down"))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: str) -> None:
        """Reads no further than 256 KiB ahead of the line: the buffer of a router."""
        flying: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        arriving = asyncio.create_task(self._arrive(flying, sink))
        with contextlib.suppress(OSError):
            while data := await source.read(_TURN):
                self.bytes += len(data)
                await flying.put((self._sent_at(len(data), way) + self._delay, data))
        await flying.put((0.0, b""))
        await arriving

    def _sent_at(self, size: int, way: str) -> float:
        start = max(self._free[way], self._loop.time())
        self._free[way] = start + (8 * size / self._bandwidth if self._bandwidth else 0.0)
        return self._free[way]

    async def _arrive(self, flying: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = await flying.get()
                if not data:
                    break
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                if not sink.is_closing():
                    sink.write(data)
        sink.close()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(5)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _cancel(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
