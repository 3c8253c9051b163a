"""Puts records together into sequences of one length, and sequences into batches.

On the CPU records in one sequence never see each other: positions start again and attention is block-diagonal.
"""

from __future__ import annotations

import bisect
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chat import Example

IGNORED = -100


@dataclass(frozen=True)
class Sequence:
    """Records that lie one behind the other in one row of a batch."""

    examples: tuple[Example, ...]

    @property
    def length(self) -> int:
        """Tokens of text in it."""
        return sum(len(example.ids) for example in self.examples)


def pack(examples: list[Example], capacity: int, seed: int) -> list[Sequence]:
    """Records in as few sequences of `capacity` tokens as best fit, longest first, finds; the same for the same seed.

    Each record must fit by itself. Raises ValueError otherwise.
    """
    random_source = random.Random(seed)
    order = list(range(len(examples)))
    random_source.shuffle(order)
    order.sort(key=lambda index: -len(examples[index].ids))
    contents: list[list[Example]] = []
    room: list[tuple[int, int]] = []  # (tokens left, number of the sequence), sorted
    for index in order:
        example = examples[index]
        if len(example.ids) > capacity:
            raise ValueError(f"record {index} has {len(example.ids)} tokens, more than {capacity}")
        place = bisect.bisect_left(room, (len(example.ids), -1))
        if place < len(room):
            left, number = room.pop(place)
        else:
            left, number = capacity, len(contents)
            contents.append([])
        contents[number].append(example)
        bisect.insort(room, (left - len(example.ids), number))
    random_source.shuffle(contents)
    return [Sequence(tuple(content)) for content in contents]


def one_each(examples: list[Example]) -> list[Sequence]:
    """Each record in a sequence of its own."""
    return [Sequence((example,)) for example in examples]


def row(sequence: Sequence, response_only: bool) -> dict[str, list[int]]:
    """The token lists of one sequence: input_ids, labels, position_ids, and which record each token is of.

    A record's first token carries no loss: nothing before it, in its own record, predicts it.
    """
    lists: dict[str, list[int]] = {"input_ids": [], "labels": [], "position_ids": [], "records": []}
    for number, example in enumerate(sequence.examples):
        length = len(example.ids)
        first = max(1, example.answer_start if response_only else 1)
        lists["input_ids"] += example.ids
        lists["labels"] += [IGNORED] * first + example.ids[first:]
        lists["position_ids"] += range(length)
        lists["records"] += [number] * length
    return lists


_PADDING = {"labels": IGNORED, "position_ids": 0, "records": -1}


def padded(lists: dict[str, list[int]], length: int, pad_id: int) -> dict[str, list[int]]:
    """The lists of a row, filled up at the end to one length."""
    fill = {"input_ids": pad_id, **_PADDING}
    return {name: values + [fill[name]] * (length - len(values)) for name, values in lists.items()}


def batch(sequences: list[Sequence], pad_id: int, response_only: bool) -> dict[str, Any]:
    """Tensors of several sequences, as long as the longest: input_ids, labels, position_ids, attention_mask.

    attention_mask is [rows, 1, length, length], true where a token may look: back, and within its own record.
    """
    import torch

    rows = [row(sequence, response_only) for sequence in sequences]
    length = max(len(one["input_ids"]) for one in rows)
    filled = [padded(one, length, pad_id) for one in rows]
    tensors = {name: torch.tensor([one[name] for one in filled]) for name in filled[0]}
    records = tensors.pop("records")
    same = records[:, :, None] == records[:, None, :]
    tensors["attention_mask"] = (same & torch.ones(length, length, dtype=torch.bool).tril())[:, None]
    return tensors


def share_of_text(sequences: list[Sequence], capacity: int) -> float:
    """Tokens of text over tokens computed, when every sequence is computed at full length."""
    return sum(sequence.length for sequence in sequences) / (capacity * len(sequences))
