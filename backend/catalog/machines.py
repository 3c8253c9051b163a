"""Machines with Trainium, as data."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, Field

GIB = 1024**3


class Machine(BaseModel):
    """One instance type. The fields are explained in machines.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    chips: int = Field(ge=1)
    cores: int = Field(ge=1)
    physical_per_core: int = Field(ge=1)
    memory_per_core_gib: float = Field(gt=0)
    peak_tflops_per_core: float = Field(gt=0)
    host_memory_gib: float = Field(gt=0)
    efa_interfaces: int = Field(ge=0)
    target: str = Field(min_length=1)
    price_per_hour: float = Field(gt=0)
    price_source: str = Field(min_length=1)
    price_date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")

    @property
    def memory_per_core(self) -> int:
        """Bytes of device memory of one core."""
        return int(self.memory_per_core_gib * GIB)

    @property
    def peak_per_core(self) -> float:
        """Floating-point operations a second of one core, bf16."""
        return self.peak_tflops_per_core * 1e12


@cache
def machines() -> dict[str, Machine]:
    """All machines by name, the usual one first."""
    text = files(__package__).joinpath("machines.toml").read_text(encoding="utf-8")
    return {name: Machine(name=name, **fields) for name, fields in tomllib.loads(text).items()}


def find_machine(name: str) -> Machine | None:
    """The machine of that name, with or without SageMaker's `ml.` before it."""
    return machines().get(name.removeprefix("ml."))
