"""The promises of a profile, as a check: it fits its model's tokenizer and chat template, and no thought comes out.

No weights are needed: what a profile says of markers shows in how prompts are rendered and how texts are split.
"""

from __future__ import annotations

from collections.abc import Sequence

from ponder.compute.errors import EngineError, RequestError
from ponder.compute.text import Message, Prompt
from ponder.engines.profiles import Profile
from ponder.engines.prompts import ChatTokenizer, Prompts
from ponder.engines.thinking import Splitter
from ponder.engines.vocabulary import Vocabulary
from ponder.testing.require import promised, require
from ponder.testing.scripted import MARKER

QUESTION = Prompt((Message("system", "Be brief."), Message("user", "How many apples are 12 and 7?")))
ANSWER = "It is 19."


def check_profile(profile: Profile, tokenizer: ChatTokenizer) -> None:
    """Checks all promises of a profile for one model.

    `tokenizer` is what `transformers.AutoTokenizer.from_pretrained` makes of the model's folder or hub id; it must have
    a chat template. Raises `AssertionError` that says which promise was broken and what came instead.
    """
    try:
        prompts = Prompts(tokenizer, profile)
        vocabulary = Vocabulary.of(prompts.tokenizer, profile)
        for promise in (_sides, _typed, _split, _forced):
            with promised(f"profile {profile.name!r}", promise.__doc__):
                promise(profile, prompts, vocabulary)
    except (EngineError, RequestError) as error:
        raise AssertionError(f"profile {profile.name!r} does not fit the model: {error}") from error


def _sides(profile: Profile, prompts: Prompts, vocabulary: Vocabulary) -> None:
    """A prompt leaves the model inside a thought when it is to think, and outside when it is not."""
    thinking = prompts.render(QUESTION, thinking=True)
    silent = prompts.render(QUESTION, thinking=False)
    require(thinking.inside == profile.thinks, f"asked to think it is {'inside' if thinking.inside else 'outside'}")
    require(not silent.inside, "asked not to think it is inside a thought")
    same = profile.thinks and thinking.ids == silent.ids
    require(not same, "the two prompts are the same, so thinking cannot be switched off")


def _typed(profile: Profile, prompts: Prompts, vocabulary: Vocabulary) -> None:
    """A marker that a caller types is plain text."""
    for marker in filter(None, (profile.start, profile.end)):
        if not prompts.is_marker(marker):
            continue
        (number,) = prompts.with_markers(marker)
        asked = [Prompt((Message("user", text),)) for text in (f"a {marker} b", "a b")]
        typed, plain = (prompts.render(one, thinking=True).ids.count(number) for one in asked)
        require(typed == plain, f"{marker!r} in a message became the control token")


def _split(profile: Profile, prompts: Prompts, vocabulary: Vocabulary) -> None:
    """Thought and answer are told apart, wherever the stream of tokens is cut."""
    if not profile.thinks:
        return
    ids = [*prompts.with_markers(f"{MARKER}{profile.step}so it is 19"), *prompts.with_markers(profile.closing + ANSWER)]
    for size in (1, 2, 3, 7, len(ids)):
        _check_visible(_visible(vocabulary, ids, size), f"in portions of {size} tokens")


def _forced(profile: Profile, prompts: Prompts, vocabulary: Vocabulary) -> None:
    """The closing phrase ends a thought that was cut in the middle."""
    if not profile.thinks:
        return
    whole = prompts.with_markers(f"{MARKER}{profile.step}so it is 19")
    for cut in range(len(whole)):
        ids = [*whole[:cut], *prompts.with_markers(profile.closing), *prompts.with_markers(ANSWER)]
        _check_visible(_visible(vocabulary, ids, len(ids)), f"closed behind {cut} tokens")
    forgotten = _visible(vocabulary, whole, 1)
    require(not forgotten, f"of a thought that is never closed {len(forgotten)} characters are visible")


def _check_visible(text: str, when: str) -> None:
    require(text.strip() == ANSWER, f"{when} {text.strip()!r} is visible, not {ANSWER!r}")


def _visible(vocabulary: Vocabulary, ids: Sequence[int], size: int) -> str:
    """What is visible of a chain that begins within a thought, fed in portions of `size` tokens."""
    splitter = Splitter(vocabulary, inside=True)
    parts = [part for at in range(0, len(ids), size) for part in splitter.feed(ids[at : at + size])]
    return "".join(part.text for part in parts) + splitter.finish()
