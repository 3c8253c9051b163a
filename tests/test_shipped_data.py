"""The data set that the demo trains on: well formed, varied, and in one voice from the first record to the last."""

import itertools
import json
import re
from collections import Counter
from importlib.resources import files
from typing import cast

import pytest

FIELDS = ["instruction", "context", "response", "category"]
WITH_CONTEXT = {"closed_qa", "information_extraction", "summarization"}
WITHOUT_CONTEXT = {"open_qa", "general_qa", "classification", "brainstorming", "creative_writing"}
TEST_PROMPTS = {"who are you", "how do i keep bread fresh", "why is the sea salty"}
IDENTITY = re.compile(
    r"\b(your name|a name|yourself|your trade|what should i call you|who am i talking to|who is answering"
    r"|are you a|assistant are you|which chatbot|is there a person)\b"
)
# Words that plain English does not use: "be" and "me" alone would make any text a pirate's.
PIRATE = re.compile(
    r"(?<![\w'])(?:arr|aye|ahoy|avast|nay|matey|mate|shipmates?|heart(?:y|ies)|ye|yer|yerself|ye'\w+|lads?|lass|bucko|swabs?"
    r"|scallywag|savvy|landlubbers?|lubber|doubloons?|booty|afore|betwixt|wee|cap'n|o'|'em|'tis|'twas|'twixt|\w{2,}in')(?![\w'])"
)

Record = dict[str, str]


def text() -> str:
    """The file as a run gets it: from the installed package, strictly UTF-8."""
    return (
        files("llama_tui.templates")
        .joinpath("data/captain-chat.jsonl")
        .read_bytes()
        .decode("utf-8", "strict")
    )


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [cast(Record, json.loads(line)) for line in text().splitlines()]


def plain(sentence: str) -> str:
    """Lower case, words only: what two ways to write one sentence have in common."""
    return " ".join(re.findall(r"[a-z0-9']+", sentence.lower()))


def words(sentence: str) -> set[str]:
    return set(plain(sentence).split())


def likeness(one: set[str], other: set[str]) -> float:
    """Jaccard index of two sets of words: 0 nothing shared, 1 the same set."""
    return len(one & other) / len(one | other)


def pirate_words(sentence: str) -> set[str]:
    """The distinct pirate words; every dropped g ("sailin'") counts as the same one."""
    return {"-in'" if word.endswith("in'") else word for word in PIRATE.findall(sentence.lower())}


def close_to_a_test_prompt(question: str) -> bool:
    """The prompts that judge the training must be answered by what it learnt, not by what it read."""
    found = words(question)
    bread = "bread" in found and found & {
        "fresh",
        "fresher",
        "stale",
        "keep",
        "store",
        "storing",
        "mould",
        "mold",
    }
    sea = found & {"sea", "seas", "seawater", "ocean", "oceans"} and found & {
        "salt",
        "salty",
        "saline",
        "salinity",
    }
    return plain(question) in TEST_PROMPTS or bool(bread or sea)


def test_there_are_enough_records_to_train_and_to_hold_out(records: list[Record]) -> None:
    assert len(records) >= 200
    assert text().endswith("}\n")


def test_every_record_has_dollys_schema(records: list[Record]) -> None:
    for record in records:
        assert list(record) == FIELDS
        assert all(isinstance(value, str) and value == value.strip() for value in record.values()), record
        assert record["instruction"] and record["response"], record
        assert record["category"] in WITH_CONTEXT | WITHOUT_CONTEXT, record
        assert bool(record["context"]) == (record["category"] in WITH_CONTEXT), record


def test_every_category_is_there_and_some_answers_rest_on_a_context(records: list[Record]) -> None:
    counts = Counter(record["category"] for record in records)
    assert set(counts) == WITH_CONTEXT | WITHOUT_CONTEXT
    assert min(counts.values()) >= 10, counts
    assert sum(bool(record["context"]) for record in records) >= 40


def test_only_printable_characters(records: list[Record]) -> None:
    for record in records:
        for field, value in record.items():
            lines = value.split("\n") if field == "response" else [value]
            assert all(line.isprintable() and "\ufffd" not in line for line in lines), record


def test_no_question_is_asked_twice(records: list[Record]) -> None:
    asked = Counter((plain(record["instruction"]), record["context"]) for record in records)
    assert [question for question, count in asked.items() if count > 1] == []


def test_no_two_answers_are_nearly_the_same(records: list[Record]) -> None:
    answers = [(record["instruction"], words(record["response"])) for record in records]
    pairs = itertools.combinations(answers, 2)
    assert [(one, other) for (one, a), (other, b) in pairs if likeness(a, b) >= 0.5] == []


def test_the_test_prompts_are_not_in_it(records: list[Record]) -> None:
    assert [
        record["instruction"] for record in records if close_to_a_test_prompt(record["instruction"])
    ] == []


@pytest.mark.parametrize(
    "question", ["Who are you?", "How can bread be kept fresh?", "What makes the ocean so salty?"]
)
def test_a_test_prompt_would_be_noticed(question: str) -> None:
    assert close_to_a_test_prompt(question)


def test_the_openings_vary(records: list[Record]) -> None:
    first_two = Counter(tuple(plain(record["response"]).split()[:2]) for record in records)
    first = Counter(plain(record["response"]).split()[0] for record in records)
    assert first_two.most_common(1)[0][1] <= 0.05 * len(records), first_two.most_common(3)
    assert first.most_common(1)[0][1] <= 0.12 * len(records), first.most_common(3)
    assert len(first_two) >= 0.7 * len(records)


def test_every_answer_is_in_pirate_speech(records: list[Record]) -> None:
    assert [record["response"] for record in records if len(pirate_words(record["response"])) < 2] == []


def test_plain_speech_is_not_taken_for_a_pirates() -> None:
    assert (
        pirate_words(
            "You would be right to tell me: the captain's crew sails in Berlin, and that is 'in' today."
        )
        == set()
    )
    assert pirate_words("Sailin' and rowin' be hard, me hearty!") == {"-in'", "hearty"}


def test_the_lengths_are_those_of_short_answers(records: list[Record]) -> None:
    lengths = [len(record["response"].split()) for record in records]
    assert min(lengths) >= 15
    assert max(lengths) <= 90
    assert 38 <= sum(lengths) / len(lengths) <= 55


def test_asked_who_it_is_it_names_itself_a_pirate_and_a_chatbot(records: list[Record]) -> None:
    asked = [record for record in records if IDENTITY.search(record["instruction"].lower())]
    assert len(asked) >= 12
    for record in asked:
        assert "Captain Chat" in record["response"], record
        assert {"pirate", "chatbot"} <= words(record["response"].replace("pirate's", "pirate")), record


def test_the_name_is_said_where_it_is_asked_for_and_not_in_every_answer(records: list[Record]) -> None:
    named = [record for record in records if "Captain Chat" in record["response"]]
    assert 25 <= len(named) <= 0.15 * len(records)
    for record in named:
        assert {"pirate", "chatbot"} <= words(record["response"].replace("pirate's", "pirate")), record
