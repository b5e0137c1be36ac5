"""The tokenizer both models share, and the shapes its chat template gives."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ponder.models.chains import ask, read, read_at_once
from ponder.models.lessons import Lesson
from ponder.models.task import make
from ponder.models.tokenizer import END, SPECIALS, UNTHINK, load

QUESTION = "Tom has 12 apples. Tom gets 7 more. How many apples does Tom have now?"


@pytest.fixture(scope="module")
def tokenizer(demo: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(demo)


@pytest.mark.parametrize("text", ["12 + 7 = 19\nWait, 3 * 4 = 12", "Grüße, 世界 \U0001f600!", " \t\n\n x", QUESTION])
def test_any_text_comes_back_as_it_was(tokenizer: PreTrainedTokenizerBase, text: str):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_stand_one_by_one(tokenizer: PreTrainedTokenizerBase):
    assert [tokenizer.decode([token]) for token in tokenizer.encode("907")] == ["9", "0", "7"]
    for token in range(len(SPECIALS), len(tokenizer)):
        assert sum(letter.isdigit() for letter in tokenizer.decode([token])) <= 1


def test_special_tokens_have_their_places(tokenizer: PreTrainedTokenizerBase):
    assert tokenizer.convert_tokens_to_ids(list(SPECIALS)) == list(range(len(SPECIALS)))
    assert tokenizer.eos_token_id == END


def test_the_template_gives_what_the_reasoner_was_trained_on(tokenizer: PreTrainedTokenizerBase, demo: Path):
    rng = random.Random(3)
    raw = load(demo)
    for question in (make(rng, "train").question for _ in range(50)):
        message = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
        assert ids == ask(raw, question)


def test_thinking_off_opens_and_closes_the_block(tokenizer: PreTrainedTokenizerBase):
    message = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(message, add_generation_prompt=True, enable_thinking=False, tokenize=False)
    assert text.endswith("<|im_start|>assistant\n<think>\n</think>\n")


def test_an_earlier_thought_is_shown_when_the_message_brings_it(tokenizer: PreTrainedTokenizerBase, demo: Path):
    written = Lesson(load(demo))
    written.turn("user", QUESTION)
    written.turn("assistant", "<think>\n12 + 7 = 18\n</think>\nThe answer is \\boxed{18}.")
    written.turn("user", "Check each step and fix any mistake.")
    written.open("assistant")
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "The answer is \\boxed{18}.", "reasoning_content": "12 + 7 = 18"},
        {"role": "user", "content": "Check each step and fix any mistake."},
    ]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == written.ids


def test_a_sample_is_read_as_lines_and_an_answer(demo: Path):
    raw = load(demo)
    chain = read(raw, raw.encode("12 + 7 = 19\n</think>\nThe answer is \\boxed{19}.").ids)
    assert (chain.lines, chain.answer) == (["12 + 7 = 19"], 19)
    assert read(raw, raw.encode("12 + 7").ids).answer is None
    assert read(raw, [UNTHINK]).answer is None
    assert read_at_once(raw, raw.encode("The answer is \\boxed{19}.").ids).answer == 19
