"""Raw texts: what was typed stays text, token ids are taken as they are meant, a thought that is open is hidden."""

from __future__ import annotations

import pytest

from ponder.compute.errors import RequestError
from ponder.compute.text import Prompt, Raw
from ponder.engines.prompts import Rendered
from ponder.engines.thinking import Splitter
from ponder.engines.vocabulary import Vocabulary
from tests.engines.test_prompts import ordinary, prompts, user, whole

TURN = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"


def rendered(text: str | tuple[int, ...], *, thinking: bool = True, suffix: str = "") -> Rendered:
    return prompts().render(Prompt((), raw=Raw(text, suffix)), thinking=thinking)


@pytest.mark.parametrize("text", ["Once upon a time", " two  spaces\n", "def f(x):\n    "])
@pytest.mark.parametrize("thinking", [False, True])
def test_a_text_has_its_ordinary_ids_and_nothing_around_them(text: str, thinking: bool) -> None:
    assert rendered(text, thinking=thinking) == Rendered(ordinary(text), False, midway=True)


def test_control_tokens_that_were_typed_stay_text() -> None:
    made = rendered(TURN)
    assert not set(made.ids) & set(ordinary("<|im_start|><|im_end|>"))
    assert whole().decode(made.ids) == TURN


def test_a_thought_that_a_text_opens_is_hidden_or_closed() -> None:
    assert rendered("Hm. <think>\nWell").inside
    assert not rendered("<think>a</think> b").inside
    closed = rendered("Hm. <think>\nWell", thinking=False)
    assert not closed.inside
    assert prompts().with_markers("</think>")[0] in closed.ids


def test_token_ids_are_taken_as_they_are() -> None:
    ids = ordinary("<|im_start|>user\nWhy?")
    assert rendered(ids) == Rendered(ids, False, midway=True)
    assert rendered(ordinary("<think>\nWell")).inside


@pytest.mark.parametrize("thinking", [False, True])
def test_a_conversation_rendered_elsewhere_ends_as_one_rendered_here(thinking: bool) -> None:
    here = prompts().render(user("Why?"), thinking=thinking)
    assert rendered(ordinary(TURN), thinking=thinking) == here


def test_what_a_text_says_of_thinking_is_what_it_opens() -> None:
    def says(text: str | tuple[int, ...]) -> bool | None:
        return prompts().says(Prompt((), raw=Raw(text)))

    assert (says("Once"), says("<think>"), says(ordinary(TURN)), says(ordinary(TURN + "<think>\n"))) == (
        False,
        True,
        None,
        True,
    )


@pytest.mark.parametrize("ids", [(1 << 30,), ordinary("a<|pad|>")])
def test_token_ids_that_stand_for_nothing_are_refused_by_name(ids: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match=r"^prompt has the token id \d+") as refused:
        rendered(ids)
    assert refused.value.param == "raw.text"


def test_a_suffix_is_refused_where_the_vocabulary_has_no_tokens_for_it() -> None:
    with pytest.raises(RequestError, match=r"^suffix is not supported") as refused:
        rendered("a", suffix="b")
    assert (refused.value.param, refused.value.code) == ("raw.suffix", "unsupported_parameter")


def test_a_line_break_that_goes_on_with_a_text_is_shown() -> None:
    vocabulary = Vocabulary(prompts().tokenizer, "<think>", "</think>")
    ids = ordinary("\n    return x")
    for midway, shown in ((True, "\n    return x"), (False, "    return x")):
        splitter = Splitter(vocabulary, inside=False, midway=midway)
        assert "".join(part.text for part in splitter.feed(ids)) + splitter.finish() == shown
