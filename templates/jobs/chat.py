"""Records as chats, in the model's own template: the same words in training, held-out loss and inference."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import StageError, read_json, require
from records import read_records

# Llama 3's templates write a date into the system prompt; a fixed one keeps what is trained what is asked.
TEMPLATE_DATE = "26 Jul 2024"


@dataclass(frozen=True)
class Example:
    """One record in tokens; the answer, with the token that ends the turn, begins at `answer_start`."""

    ids: list[int]
    answer_start: int


@dataclass(frozen=True)
class Examples:
    """The usable records of a file in order, and how many did not fit as they were."""

    items: list[Example]
    cut: int
    left_out: int


def load_tokenizer(model_dir: Path) -> Any:
    """The tokenizer of a model directory; it must have a chat template.

    Raises:
        StageError: it cannot be loaded, or has no template.
    """
    from transformers import AutoTokenizer

    require(model_dir / "config.json", "download_model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StageError(
            f"the tokenizer in {model_dir} cannot be loaded: {reason}", "run download_model again"
        ) from None
    if not tokenizer.chat_template:
        raise StageError(f"the tokenizer in {model_dir} has no chat template", "choose an instruct model")
    return tokenizer


def end_of_turn_ids(tokenizer: Any, model_dir: Path) -> set[int]:
    """The tokens that end an answer, as the tokenizer and the model's generation settings name them."""
    ids = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    file = model_dir / "generation_config.json"
    if file.is_file():
        named = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
        ids |= set(named) if isinstance(named, list) else {named}
    return ids - {None}


def system_prompt(prompts_file: Path) -> str | None:
    """The system prompt that inference will ask under (the first one of prompts.json), or None."""
    if not prompts_file.is_file():
        return None
    prompts = read_json(prompts_file, "a new run").get("prompts", [])
    return next((prompt["system"] for prompt in prompts if prompt.get("system")), None)


def question(record: dict[str, str], system: str | None) -> list[dict[str, str]]:
    """The messages that ask for a record's response."""
    context = record.get("context", "").strip()
    user = record["instruction"].strip() + (f"\n\n{context}" if context else "")
    return asked(user, system)


def asked(user: str, system: str | None) -> list[dict[str, str]]:
    """The messages of one question under a system prompt, if there is one."""
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": user}]


def render(tokenizer: Any, messages: list[dict[str, str]], answered: bool) -> str:
    """The chat as text: up to where the answer begins, or with the answer that the last message holds."""
    text: str = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=not answered, date_string=TEMPLATE_DATE
    )
    return text


def to_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a rendered chat: the template wrote the special tokens already, a second BOS would be wrong."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def encode(tokenizer: Any, ends: set[int], record: dict[str, str], system: str | None) -> Example:
    """One record in tokens, the question exactly as inference will ask it.

    Raises:
        StageError: the template cannot be used for training on the answer alone.
    """
    messages = question(record, system)
    asking = render(tokenizer, messages, answered=False)
    answer = {"role": "assistant", "content": record["response"].strip()}
    whole = render(tokenizer, [*messages, answer], answered=True)
    if not whole.startswith(asking):
        raise StageError(
            "the model's chat template writes the question differently once it is answered",
            "take a model whose template does not: what is trained would not be what is asked",
        )
    prompt = to_ids(tokenizer, asking)
    response = to_ids(tokenizer, whole[len(asking) :])
    last = max((index for index, token in enumerate(response) if token in ends), default=None)
    if last is None:
        raise StageError(
            "the model's chat template does not end an answer with an end-of-turn token",
            "check eos_token_id in the model's generation_config.json",
        )
    if (
        tokenizer.bos_token_id is not None
        and prompt[:2] == [tokenizer.bos_token_id] * 2
        and _has_bos(tokenizer)
    ):
        raise StageError("the model's chat template writes the first token twice", "check its chat template")
    return Example(prompt + response[: last + 1], len(prompt))


def _has_bos(tokenizer: Any) -> bool:
    """Whether the first token is one for that use alone: in ChatML models it also begins every turn."""
    return bool(tokenizer.bos_token) and not tokenizer.bos_token.startswith("<|im_start")


def token_lengths(model_dir: Path, file: Path, system: str | None) -> list[tuple[int, int]]:
    """How long the records of a file are in the model's tokens: (tokens, records), shortest first."""
    tokenizer = load_tokenizer(model_dir)
    ends = end_of_turn_ids(tokenizer, model_dir)
    lengths = Counter(len(encode(tokenizer, ends, record, system).ids) for record in read_records(file))
    return sorted(lengths.items())


def load_examples(
    tokenizer: Any, model_dir: Path, file: Path, system: str | None, max_length: int
) -> Examples:
    """The records of a file in tokens, none longer than `max_length`.

    Raises:
        StageError: the file is missing, or no record fits.
    """
    require(file, "download_model")
    ends = end_of_turn_ids(tokenizer, model_dir)
    whole = [encode(tokenizer, ends, record, system) for record in read_records(file)]
    fitting = [example for example in whole if example.answer_start < max_length]
    if not fitting:
        raise StageError(
            f"no record of {file} has its answer within {max_length} tokens",
            "raise training.sequence_length, or use shorter records",
        )
    cut = sum(len(example.ids) > max_length for example in fitting)
    items = [Example(example.ids[:max_length], example.answer_start) for example in fitting]
    return Examples(items, cut, len(whole) - len(fitting))
