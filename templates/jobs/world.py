"""The processes that train together on the CPU, over gloo."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from common import log

# A process that waits longer than this for the others takes them for dead.
PATIENCE = timedelta(minutes=30)


@dataclass
class World:
    """The processes that train together, and who this one is.

    `told` is this process's own: SIGTERM came. `stop` is what all agreed on, so that all stop after the same step.
    """

    rank: int
    size: int
    store: dist.Store
    told: bool = False
    stop: bool = False

    @staticmethod
    def join() -> World:
        """Meet the processes that torchrun started with this one; leave them with `leave`."""
        store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
        return World(rank, size, store)

    def leave(self) -> None:
        """Part when all are through with their last exchange.

        gloo fails an exchange, though it is complete, when the other end is gone before this one has looked at it.
        """
        if self.store.add("llama_tui/through", 1) == self.size:
            self.store.set("llama_tui/all_through", "yes")
        self.store.wait(["llama_tui/all_through"], PATIENCE)

    def say(self, message: str) -> None:
        """Print once for all."""
        if self.rank == 0:
            log(message)

    def barrier(self) -> None:
        """Wait until all have come here."""
        dist.barrier()

    def from_first(self, value: Any) -> Any:
        """What process 0 has, on all."""
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def sum(self, number: float) -> float:
        """The sum of a number over all processes."""
        tensor = torch.tensor([number], dtype=torch.float64)
        dist.all_reduce(tensor)
        return float(tensor)
