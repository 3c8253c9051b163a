"""The processes that train together on the CPU, over gloo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from common import log


@dataclass
class World:
    """The processes that train together, and who this one is."""

    rank: int
    size: int
    stop: bool = False

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
