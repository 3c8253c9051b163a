"""Runs a Llama from its files, one layer in memory at a time, in float32.

For a check on a few short texts: an 8B model needs a few GB and seconds a layer, whatever memory the whole would take.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from weights import Weights

# (name of a weight, its float32 values) -> the values to compute with.
Change = Callable[[str, torch.Tensor], torch.Tensor]
_VOCABULARY_BLOCK = 16_384


def unchanged(_name: str, weight: torch.Tensor) -> torch.Tensor:
    """The weights as they are in the files."""
    return weight


class StreamedLlama:
    """A Llama in a model directory; `change` may alter each weight after it was read."""

    def __init__(self, folder: Path, made_by: str, change: Change = unchanged) -> None:
        from transformers import AutoConfig

        self._config = AutoConfig.from_pretrained(folder, local_files_only=True)
        self._config._attn_implementation = "eager"
        self._weights = Weights(folder, made_by)
        self._change = change

    @torch.no_grad()
    def hidden(self, rows: list[list[int]]) -> list[torch.Tensor]:
        """The last hidden states of each row of token ids, normalised: [tokens, hidden] each."""
        from transformers.models.llama import modeling_llama as llama

        rotary = llama.LlamaRotaryEmbedding(self._config)
        states = [self._embed(row) for row in rows]
        for number in range(self._config.num_hidden_layers):
            layer = self._layer(llama, number)
            states = [_through(layer, rotary, state) for state in states]
            del layer
        norm = llama.LlamaRMSNorm(self._config.hidden_size, self._config.rms_norm_eps)
        norm.load_state_dict({"weight": self._get("model.norm.weight")})
        return [norm(state)[0] for state in states]

    @torch.no_grad()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [tokens, vocabulary] of hidden states, the vocabulary in blocks."""
        name = "lm_head.weight" if "lm_head.weight" in self._weights else "model.embed_tokens.weight"
        size = self._weights.entries[name].shape[0]
        blocks = [
            hidden @ self._weights.rows(name, first, min(size, first + _VOCABULARY_BLOCK)).float().t()
            for first in range(0, size, _VOCABULARY_BLOCK)
        ]
        return torch.cat(blocks, dim=1)

    def _embed(self, row: list[int]) -> torch.Tensor:
        vectors = [self._weights.rows("model.embed_tokens.weight", token, token + 1) for token in row]
        return torch.cat(vectors).float()[None]

    def _layer(self, llama: Any, number: int) -> Any:
        prefix = f"model.layers.{number}."
        names = [name for name in self._weights.entries if name.startswith(prefix)]
        with torch.device("meta"):
            layer = llama.LlamaDecoderLayer(self._config, number)
        state = {name[len(prefix) :]: self._get(name) for name in names if "rotary_emb" not in name}
        layer.load_state_dict(state, assign=True)
        return layer.eval()

    def _get(self, name: str) -> torch.Tensor:
        return self._change(name, self._weights.rows(name).float())


def _through(layer: Any, rotary: Any, state: torch.Tensor) -> torch.Tensor:
    length = state.shape[1]
    positions = torch.arange(length)[None]
    mask = torch.full((length, length), torch.finfo(state.dtype).min).triu(1)[None, None]
    output = layer(
        state, attention_mask=mask, position_ids=positions, position_embeddings=rotary(state, positions)
    )
    result: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return result
