"""The loss of a Llama on a batch, with logits computed only where a token carries loss.

The vocabulary is a third of the work of a small model, and most positions of a chat carry no loss.
"""

from __future__ import annotations

from typing import Any

import torch
from packing import IGNORED


def summed_loss(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """(cross-entropy summed over the tokens that carry loss, how many they are), in float32.

    `model` is a LlamaForCausalLM, with or without LoRA layers in it; `batch` is what packing.batch makes.
    """
    output = model.model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=batch["attention_mask"],
        use_cache=False,
    )
    targets = batch["labels"][:, 1:]
    carries = targets != IGNORED
    logits = model.lm_head(output.last_hidden_state[:, :-1][carries]).float()
    loss = torch.nn.functional.cross_entropy(logits, targets[carries], reduction="sum")
    return loss, int(carries.sum())
