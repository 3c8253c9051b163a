"""Turns a GGUF file of a Llama-architecture model into a Hugging Face directory of bf16 safetensors.

transformers reads the weights; this module sees to what it leaves open: the tokenizer's digit rule, the limits and
ids that later stages rely on, and a check that the saved tokenizer says the same as the GGUF's own vocabulary.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from common import StageError, log

if TYPE_CHECKING:
    from pathlib import Path

# Where tokenizers go wrong: digits, white space, accents, emoji, other scripts, code, special tokens, odd bytes.
TRICKY_TEXTS = (
    "In 1492 he had 3,000 coins, 0.5 % more than 2,985; call 555-0199.",
    "two  spaces,   three, and a tab\tthen\n\na blank line \n with trailing space ",
    " leading space",
    "Crème brûlée, naïve façade, Ångström, señor, Straße",
    "🏴‍☠️ Ahoy 👩🏽‍🚀 — “quoted” … ½ ² ①",
    "Привет, 海賊 チャットボット, مرحبا",
    "def f(x):\n    return {'a': x**2}  # don't; I'll, they've",
    "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n",
    "x<|endoftext|>y<repo_name>z",
    "\u200b\ufeff\u00a0",
    "",
)


def convert(gguf_file: Path, target: Path) -> None:
    """Write config, generation config, tokenizer with chat template, and weights of the GGUF file into a directory.

    Raises:
        StageError: the file is not a GGUF of a Llama, has no chat template, or the tokenizer does not survive.
    """
    tokenizer = load_tokenizer(gguf_file)
    save_tokenizer(tokenizer, target)
    log(f"reading the weights of {gguf_file.name}")
    model = _load_model(gguf_file)
    model.save_pretrained(target, max_shard_size="5GB")
    add_rope_theta(target / "config.json")


def load_tokenizer(gguf_file: Path) -> Any:
    """The GGUF's tokenizer, with its context length and, for SmolLM, digits one by one as its vocabulary was made."""
    from gguf import GGUFReader
    from transformers import AutoTokenizer

    try:
        fields = GGUFReader(gguf_file).fields
        tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    except (OSError, ValueError, KeyError) as error:
        raise StageError(
            f"{gguf_file} cannot be read as a GGUF model: {error}", "remove it and run this stage again"
        ) from error
    if not tokenizer.chat_template:
        raise StageError(
            f"{gguf_file.name} has no chat template",
            "take an instruct model: training and inference ask through its template",
        )
    if "tokenizer.ggml.pre" in fields and fields["tokenizer.ggml.pre"].contents() == "smollm":
        _split_digits(tokenizer)
    tokenizer.model_max_length = int(fields["llama.context_length"].contents())
    return tokenizer


def _split_digits(tokenizer: Any) -> None:
    """Put the rule "each digit on its own" before the byte-level one: transformers drops it from a GGUF."""
    from tokenizers.pre_tokenizers import Digits, Sequence

    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])


def save_tokenizer(tokenizer: Any, target: Path) -> None:
    """Save the tokenizer, load it again from disk, and compare the two on texts that break tokenizers.

    Raises:
        StageError: naming the first text that differs.
    """
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(target)
    saved = AutoTokenizer.from_pretrained(target)
    for text in TRICKY_TEXTS:
        expected = tokenizer.encode(text, add_special_tokens=False)
        found = saved.encode(text, add_special_tokens=False)
        if expected != found or saved.decode(found, skip_special_tokens=False) != text:
            raise StageError(
                f"the saved tokenizer does not agree with the GGUF's own on {text!r}: {found} instead of {expected}"
            )
    question = [{"role": "user", "content": "Who are you?"}]
    rendered = [
        one.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
        for one in (tokenizer, saved)
    ]
    if rendered[0] != rendered[1]:
        raise StageError("the chat template changed when the tokenizer was saved")


def _load_model(gguf_file: Path) -> Any:
    """The model with its weights unpacked to bf16, free of the record of quantisation that forbids saving it."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig
    from transformers.utils import logging as transformers_logging

    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent,
        gguf_file=gguf_file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    if model.config.model_type != "llama":
        raise StageError(
            f"{gguf_file.name} is a {model.config.model_type} model, not a Llama",
            "choose a model of the Llama architecture",
        )
    for record in ("hf_quantizer", "quantization_method", "is_quantized"):
        if record in vars(model):
            delattr(model, record)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def add_rope_theta(config_file: Path) -> None:
    """Repeat the rotary base where transformers 4 looks for it: it would fall back to 10,000 without a word."""
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
