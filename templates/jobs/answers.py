"""What one model says: answers to the prompts, and loss on the held-out records. One model in memory at a time."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chat
import packing
import torch
from common import StageError, log, require
from losses import summed_loss

_BATCH_TOKENS = 2048
_PROGRESS_TOKENS = 32


@dataclass(frozen=True)
class Asking:
    """How the answers are made; temperature 0 makes the sampled answers greedy as well.

    A repetition penalty over 1 makes tokens less likely that were said before (Keskar et al. 2019, CTRL): small models
    turn in circles without it.
    """

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class Said:
    """What one model said: answers by mode in the order of the prompts, and the loss on held-out records."""

    answers: dict[str, list[dict[str, Any]]]
    held_out: dict[str, Any]


class Speaker:
    """A model that is loaded, with its tokenizer; `close` frees its memory."""

    def __init__(self, folder: Path, made_by: str, dtype: torch.dtype, what: str) -> None:
        from transformers import AutoModelForCausalLM

        require(folder / "config.json", made_by)
        log(f"{what}: loading {folder} in {str(dtype).removeprefix('torch.')}")
        try:
            self.model: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True
            ).eval()
        except (OSError, ValueError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise StageError(f"{folder} cannot be loaded: {reason}", f"run {made_by} again") from None
        self.tokenizer = chat.load_tokenizer(folder)
        self.ends = sorted(chat.end_of_turn_ids(self.tokenizer, folder))
        self.pad_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.ends[0]
        self._what = what

    def close(self) -> None:
        """Free the model's memory, before the next one is loaded."""
        self.model = None
        gc.collect()

    @torch.inference_mode()
    def ask(self, prompts: list[dict[str, Any]], asking: Asking, sampled: bool) -> list[dict[str, Any]]:
        """Answers to all prompts, made together; the seed makes sampled ones the same again."""
        rows = [self._question(prompt) for prompt in prompts]
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[self.pad_id] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        began = time.monotonic()
        torch.manual_seed(asking.seed)
        mode = "sampled" if sampled else "greedy"
        output = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=self._generation(asking, sampled and asking.temperature > 0),
            stopping_criteria=[_progress(f"{self._what}, {mode}", longest, asking.max_new_tokens)],
        )
        seconds = round(time.monotonic() - began, 2)
        return [self._answer(row[longest:].tolist(), seconds) for row in output]

    def _question(self, prompt: dict[str, Any]) -> list[int]:
        messages = chat.asked(prompt["user"], prompt.get("system"))
        return chat.to_ids(self.tokenizer, chat.render(self.tokenizer, messages, answered=False))

    def _generation(self, asking: Asking, sample: bool) -> Any:
        from transformers import GenerationConfig

        how = {"temperature": asking.temperature, "top_p": asking.top_p, "top_k": 0} if sample else {}
        return GenerationConfig(
            max_new_tokens=asking.max_new_tokens,
            do_sample=sample,
            repetition_penalty=asking.repetition_penalty,
            eos_token_id=self.ends,
            pad_token_id=self.pad_id,
            bos_token_id=self.tokenizer.bos_token_id,
            **how,
        )

    def _answer(self, ids: list[int], seconds: float) -> dict[str, Any]:
        """An answer in words; `seconds` is the time that all answers of its batch took together."""
        end = next((index for index, token in enumerate(ids) if token in self.ends), len(ids))
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
        return {"role": "assistant", "content": text, "tokens": end, "seconds": seconds}

    @torch.inference_mode()
    def held_out_loss(self, examples: list[chat.Example]) -> dict[str, Any]:
        """Mean loss over the answers' tokens: {"records", "tokens", "loss", "perplexity"}.

        Raises:
            StageError: the loss is not a number.
        """
        total, count, done = 0.0, 0, 0
        for group in _groups(examples):
            rows = packing.batch(packing.one_each(group), self.pad_id, response_only=True)
            loss, tokens = summed_loss(self.model, rows)
            total, count, done = total + float(loss), count + tokens, done + len(group)
            log(f"{self._what}: held-out loss, {done} of {len(examples)} records")
        mean = total / count
        if not math.isfinite(mean):
            raise StageError(
                f"the held-out loss of the {self._what} model is {mean}", "look at the training's metrics"
            )
        return {
            "records": len(examples),
            "tokens": count,
            "loss": mean,
            "perplexity": math.exp(min(mean, 700.0)),
        }


def _groups(examples: list[chat.Example]) -> list[list[chat.Example]]:
    """Records of like length together, as many as make about 2,048 tokens."""
    groups: list[list[chat.Example]] = []
    for example in sorted(examples, key=lambda one: len(one.ids)):
        if groups and (len(groups[-1]) + 1) * len(example.ids) <= _BATCH_TOKENS:
            groups[-1].append(example)
        else:
            groups.append([example])
    return groups


def _progress(what: str, start: int, wanted: int) -> Any:
    """A stopping criterion that never stops: it tells how far the answers have come."""

    def tell(input_ids: torch.Tensor, _scores: Any, **_others: Any) -> torch.Tensor:
        made = input_ids.shape[1] - start
        if made % _PROGRESS_TOKENS == 0:
            log(f"{what}: {made} of at most {wanted} tokens")
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    return tell


def say_all(
    speaker: Speaker, prompts: list[dict[str, Any]], asking: Asking, examples: list[chat.Example]
) -> Said:
    """Everything that is asked of one model; it is closed afterwards."""
    try:
        answers = {
            mode: speaker.ask(prompts, asking, sampled=mode == "sampled") for mode in ("greedy", "sampled")
        }
        return Said(answers, speaker.held_out_loss(examples) if examples else {})
    finally:
        speaker.close()
