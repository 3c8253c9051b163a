"""Data sets whose lengths are known before they are downloaded."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, Field


class KnownDataset(BaseModel):
    """One data set. The fields are explained in datasets.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    records: int = Field(ge=1)
    source: str = Field(min_length=1)
    tokens: tuple[int, ...] = Field(min_length=1)


@cache
def known_datasets() -> dict[str, KnownDataset]:
    """All of them by name."""
    text = files(__package__).joinpath("datasets.toml").read_text(encoding="utf-8")
    return {name: KnownDataset(name=name, **fields) for name, fields in tomllib.loads(text).items()}
