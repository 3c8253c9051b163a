"""How long a data set's records are in tokens, measured where that is known, else by their characters.

Measured with SmolLM2's tokenizer (49,152 tokens) on 3,000 records of dolly: 4.30 characters a token, and on our own
captain-chat 3.91, where the estimate is 8 % too low. Dolly packed into 1,024 tokens: 570 sequences by characters, 570 by
real tokens (256: 1,763 and 1,766; 2,048: 294 and 294); nine of ten single records are within a fifth. Llama 3's larger
vocabulary needs rather fewer tokens for English: the estimate is on the safe side there. Other languages need more.
"""

from __future__ import annotations

import json
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from llama_tui.backend.catalog.datasets import known_datasets
from llama_tui.backend.catalog.models import Model
from llama_tui.backend.settings import SHIPPED_DATASET, Settings

CHARS_PER_TOKEN = 4.30
# Other data sets' names for dolly's fields, as templates/jobs/records.py takes them (a test compares).
ALSO = {
    "input": "context",
    "output": "response",
    "prompt": "instruction",
    "question": "instruction",
    "completion": "response",
    "answer": "response",
}
# Of a model that is not in the catalogue: as Llama 3.1.
USUAL_TEMPLATE = (36, 36)
# More records than this are counted on so many and multiplied: the share of text no longer changes.
PACKED_AT_MOST = 50_000
# A report that tells of more is not one of ours; each record takes room here.
MOST_RECORDS = 10_000_000


@dataclass(frozen=True)
class TokenLengths:
    """Tokens of the records to train on, chat template included.

    Attributes:
        sample: the lengths that are known, not cut.
        records: how many records the sample stands for.
        basis: where they are from, in words.
        exact: counted by the model's own tokenizer.
    """

    sample: tuple[int, ...]
    records: int
    basis: str
    exact: bool = False

    def cut(self, longest: int) -> list[int]:
        """A length for each record (of at most PACKED_AT_MOST), cut as training cuts them."""
        count = min(self.records, PACKED_AT_MOST)
        known = len(self.sample)
        return [min(self.sample[index * known // count], longest) for index in range(count)]


@dataclass(frozen=True)
class Packing:
    """What one epoch computes: sequences, and the tokens of text in them."""

    sequences: int
    text_tokens: int


def sequences_of(lengths: TokenLengths, capacity: int, packing: bool) -> Packing:
    """Sequences of `capacity` tokens, packed as templates/jobs/packing.py does, or one for each record."""
    cut = lengths.cut(capacity)
    scale = lengths.records / len(cut)
    count = packed(cut, capacity) if packing else len(cut)
    return Packing(round(count * scale), round(sum(cut) * scale))


def packed(lengths: Sequence[int], capacity: int) -> int:
    """How many sequences hold records of these lengths, each put where it fits best, the longest first."""
    room: list[int] = []
    sequences = 0
    for length in sorted(lengths, reverse=True):
        place = bisect_left(room, length)
        if place < len(room):
            left = room.pop(place)
        else:
            left = capacity
            sequences += 1
        insort(room, left - length)
    return sequences


def template_of(settings: Settings, model: Model | None) -> int:
    """Tokens that every record has beside its own text: the template's and the system prompt's."""
    system = settings.inference.system_prompt
    under_system, alone = model.template_tokens if model else USUAL_TEMPLATE
    return under_system + round(len(system) / CHARS_PER_TOKEN) if system else alone


def lengths_by_characters(
    records: Iterable[Mapping[str, Any]], settings: Settings, model: Model | None, of: str
) -> TokenLengths | None:
    """Lengths estimated from characters; None when no record can be used.

    Args:
        records: with dolly's fields, or others' names for them. All of them are trained on: leave out what is held out.
        of: what they are records of, for the basis.
    """
    counts = []
    for record in records:
        texts = _fields(record)
        if texts["instruction"].strip() and texts["response"].strip():
            counts.append(sum(map(len, texts.values())))
    return lengths_of_counts(counts, settings, model, of)


def lengths_of_counts(
    characters: Sequence[int], settings: Settings, model: Model | None, of: str
) -> TokenLengths | None:
    """Lengths estimated from each record's characters; None where there is no record."""
    if not characters:
        return None
    extra = template_of(settings, model)
    sample = tuple(round(count / CHARS_PER_TOKEN) + extra for count in characters)
    basis = (
        f"{len(sample)} records of {of}, {CHARS_PER_TOKEN} characters a token (measured with SmolLM2's tokenizer on dolly) "
        f"and {extra} tokens of template and system prompt each"
    )
    return TokenLengths(sample, len(sample), basis)


def _fields(record: Mapping[str, Any]) -> dict[str, str]:
    texts = dict.fromkeys(("instruction", "context", "response"), "")
    for name, value in record.items():
        field = ALSO.get(name, name)
        if field in texts and value is not None and not texts[field]:
            texts[field] = str(value)
    return texts


def lengths_of_text(text: str, settings: Settings, model: Model | None, of: str) -> TokenLengths | None:
    """Lengths of the records of JSON lines; broken lines, such as a last one cut short, are skipped."""
    records = []
    # Not splitlines(): a record may hold the other characters that end a line.
    for line in text.split("\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return lengths_by_characters(records, settings, model, of)


def lengths_of_report(report: Mapping[str, Any]) -> TokenLengths | None:
    """The real lengths in download_model's report (`dataset.token_lengths`: [[tokens, records], ...]), if it has any."""
    try:
        pairs = [(int(tokens), int(count)) for tokens, count in report["dataset"]["token_lengths"]]
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if not 0 < sum(count for _, count in pairs) <= MOST_RECORDS or min(min(pair) for pair in pairs) < 0:
        return None
    sample = tuple(tokens for tokens, count in pairs for _ in range(count))
    basis = "the records' own lengths in the model's tokens, counted by download_model"
    return TokenLengths(sample, len(sample), basis, exact=True)


def lengths_in_advance(settings: Settings, model: Model | None) -> TokenLengths | None:
    """What is known before anything is downloaded: our own data set, and those of the catalogue; else None."""
    source, held_out = settings.model.dataset, settings.model.held_out
    if source == SHIPPED_DATASET:
        text = files("llama_tui.templates").joinpath("data/captain-chat.jsonl").read_text(encoding="utf-8")
        return without_held_out(lengths_of_text(text, settings, model, SHIPPED_DATASET), held_out)
    known = known_datasets().get(source)
    if known is None:
        return None
    extra = template_of(settings, model)
    basis = f"{known.name}: {known.source}, and {extra} tokens of template and system prompt each"
    sample = tuple(tokens + extra for tokens in known.tokens)
    return without_held_out(TokenLengths(sample, known.records, basis), held_out)


def without_held_out(lengths: TokenLengths | None, held_out: int) -> TokenLengths | None:
    """The same without the records that are held out; None when none are left."""
    if lengths is None or lengths.records <= held_out:
        return None
    return TokenLengths(lengths.sample, lengths.records - held_out, lengths.basis, lengths.exact)


def why_unknown(settings: Settings) -> str:
    """When the lengths of a data set that nobody knows will be known."""
    source = settings.model.dataset
    if source.startswith(("/", "~/")) and not source.endswith(".parquet"):
        return "known after the look at the data set (Ctrl+D in the wizard)"
    return f"known once download_model has had {source}"
