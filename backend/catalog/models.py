"""Models of the Llama architecture, as data, and what follows from their shapes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, Field


class Model(BaseModel):
    """One model. The fields are explained in models.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    also: tuple[str, ...] = ()
    layers: int = Field(ge=1)
    hidden: int = Field(ge=1)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    intermediate: int = Field(ge=1)
    vocabulary: int = Field(ge=1)
    tied_embeddings: bool
    max_positions: int = Field(ge=1)
    parameters: int = Field(ge=1)
    bytes_on_disk: int = Field(ge=1)
    gated: bool
    template_tokens: tuple[int, int]
    layouts: tuple[tuple[int, int], ...] = Field(min_length=1)

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """{layer that can carry an adapter: (rows out, columns in)}."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (queries, self.hidden),
            "k_proj": (keys, self.hidden),
            "v_proj": (keys, self.hidden),
            "o_proj": (self.hidden, queries),
            "gate_proj": (self.intermediate, self.hidden),
            "up_proj": (self.intermediate, self.hidden),
            "down_proj": (self.hidden, self.intermediate),
        }

    @property
    def layer_parameters(self) -> int:
        """Parameters of one block: its linear layers and two norms."""
        return sum(rows * columns for rows, columns in self.linear_shapes.values()) + 2 * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding; the head, where it is not tied, has as many."""
        return self.vocabulary * self.hidden

    @property
    def counted_parameters(self) -> int:
        """All parameters, counted from the shapes."""
        tables = 1 if self.tied_embeddings else 2
        return self.layers * self.layer_parameters + tables * self.embedding_parameters + self.hidden

    @property
    def multiplied_parameters(self) -> int:
        """Parameters that each token is multiplied with: all but the look-up in the embedding."""
        return self.layers * self.layer_parameters + self.embedding_parameters

    def adapter_parameters(self, rank: int, targets: Iterable[str]) -> int:
        """Parameters of a LoRA adapter of that rank on those layers of every block."""
        per_layer = sum(rank * sum(self.linear_shapes[str(target)]) for target in targets)
        return self.layers * per_layer


@cache
def models() -> dict[str, Model]:
    """All models by name, the default first."""
    text = files(__package__).joinpath("models.toml").read_text(encoding="utf-8")
    return {name: Model(name=name, **fields) for name, fields in tomllib.loads(text).items()}


def find_model(source: str) -> Model | None:
    """The model that a source names, by this or an older name of it; None for one that is not known."""
    for model in models().values():
        if source == model.name or source in model.also:
            return model
    return None
