"""That a profile fits its model is proven at the start, with its tokenizer and template and without its weights.

A chain is written as the engine would write it, by a script: a thought and an answer in portions of several sizes, a
thought that is cut anywhere, a prompt that is not to think. What cannot be shown is said with the line that mends it; a
thought that would be read as an answer, or an answer that nobody would see, is never passed over.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Sampling
from ponder.compute.errors import EngineError, PonderError
from ponder.compute.text import Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.model import Model
from ponder.engines.profiles import PROFILES, Profile, find, sampled
from ponder.engines.profiles.finding import added_tokens, renderer, template_source
from ponder.engines.profiles.markers import Pair, left_open, pairs
from ponder.engines.profiles.reading import Side, read, side
from ponder.engines.profiles.template import ChatTemplate
from ponder.engines.writing import Writing

QUESTION = Prompt((Message("system", "Be brief."), Message("user", "How many apples are 12 and 7?")))
BARE = Prompt((Message("user", "How many apples are 12 and 7?"),))
THOUGHT = "Twelve and seven.\n\nTen and nine, or nineteen"
ANSWER = "It is 19."
PORTIONS = (1, 3, 1 << 20)
"""Tokens of one output of the scripted engine."""
CONTEXT = 1 << 20
"""Tokens; long enough for all that is tried."""
TAIL = 64
"""Tokens at the end of a prompt that show where it leaves the model."""


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing that was to be shown of a model."""

    of: str
    """markers, side, split, forced or silent."""
    ok: bool | None
    """None: nothing speaks for or against it."""
    words: str
    mend: str = ""
    """Lines of a configuration, or words."""


def prove(model: Model, template: ChatTemplate, tokens: Collection[str]) -> list[Proof]:
    """Everything that is to be shown of a model; `tokens` are its tokenizer's added ones."""
    shown = read(template, tokens)
    # What is to be shown is no matter of room, of which an operator may have left little.
    model = copy.copy(model)
    model.card = replace(model.card, context=CONTEXT)
    proofs = [_markers(model.profile, template, tokens, shown), *_sides(model, template, tokens, shown)]
    if model.profile.thinks and all(proof.ok is not False for proof in proofs):
        proofs += [_split(model, shown), _forced(model, shown)]
    if all(proof.ok is not False for proof in proofs):
        proofs.append(_silent(model, shown))
    return proofs


def proofs_of(model: Model, tokenizer: Any) -> list[Proof]:
    """The same, with a transformers tokenizer."""
    return prove(model, ChatTemplate(template_source(tokenizer), renderer(tokenizer)), added_tokens(tokenizer))


def demand(name: str, proofs: Sequence[Proof]) -> None:
    """Raises `EngineError` for the first that failed."""
    for proof in proofs:
        if proof.ok is False:
            raise EngineError(f"model {name}: {proof.words}. Mend: {proof.mend}")


def fitting(
    tokenizer: Any,
    name: str,
    path: str,
    profile: Profile | None,
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    *,
    vocabulary_size: int,
) -> Profile:
    """The profile of a model, found by its files where None is given, and shown to fit its tokenizer and its template.
    Raises `EngineError` where it does not fit."""
    if profile is None:
        profile = find(path, config, template_source(tokenizer), tokenizer, generation)
    else:
        profile = sampled(profile, generation, keep=profile.model_fields_set)
    model = Model(tokenizer, profile, name, context=CONTEXT, vocabulary_size=vocabulary_size)
    demand(name, proofs_of(model, tokenizer))
    return profile


def table(profile: Profile, name: str = "mine") -> str:
    """A profile as lines of a configuration: what it does not share with the usual one."""
    usual = Profile()
    lines = [f"[models.{name}.profile]"]
    for field in ("name", "thinks", "start", "end", "opening", "closing", "closed", "wrapper", "channels", "switch"):
        if (value := getattr(profile, field)) != getattr(usual, field):
            lines.append(f"{field} = {json.dumps(value, ensure_ascii=False)}")
    for field in ("on", "off"):
        if value := getattr(profile, field):
            pairs_ = ", ".join(f"{key} = {json.dumps(one)}" for key, one in value.items())
            lines.append(f"{field} = {{ {pairs_} }}")
    lines += [
        f"{field} = {json.dumps(getattr(profile, field))}"
        for field in ("system", "word")
        if any(getattr(profile, field))
    ]
    return "\n".join(lines)


# -- what is to be shown ----------------------------------------------------------------------------------------------


def _markers(profile: Profile, template: ChatTemplate, tokens: Collection[str], shown: dict[str, Any] | None) -> Proof:
    """Each marker is a token, or in the template, or known of the family."""
    if not profile.thinks:
        return Proof("markers", True, "it answers at once")
    if profile.channels:
        return Proof("markers", True, f"thought and answer are channels ({profile.channels})")
    known = PROFILES.get(profile.name)
    told: list[str] = []
    unseen: list[str] = []
    for marker in filter(None, (profile.start, profile.end)):
        if marker.strip() in tokens:
            told.append(f"{marker!r} is a token")
        elif marker.strip() in template.source:
            told.append(f"{marker!r} is a text of the template")
        elif marker in profile.instruction:
            told.append(f"{marker!r} is asked for")
        elif known is not None and "start" in known.model_fields_set and marker in (known.start, known.end):
            told.append(f"{marker!r} is known of the family {profile.name}")
        else:
            unseen.append(repr(marker))
    if not unseen:
        return Proof("markers", True, ", ".join(told))
    if shown is not None and shown["start"] != profile.start:
        words = f"the profile {profile.name!r} has the markers {profile.start!r} and {profile.end!r}, and the model's "
        return Proof("markers", False, words + f"files have {shown['start']!r} and {shown['end']!r}", _mend(shown))
    words = f"nothing in the model's files shows {' and '.join(unseen)}: taken on the word of profile {profile.name!r}"
    return Proof("markers", None, words)


def _sides(
    model: Model, template: ChatTemplate, tokens: Collection[str], shown: dict[str, Any] | None
) -> Iterator[Proof]:
    """A prompt leaves the model within a thought when it is to think, and at none when it is not."""
    profile = model.profile
    for prompt in (QUESTION, BARE):
        for thinking in (True, False) if profile.thinks else (False,):
            try:
                rendered = model.prompts.render(prompt, thinking=thinking)
            except PonderError as error:
                # Some templates take no system message.
                if prompt is BARE:
                    yield Proof("side", False, error.message, _mend(shown))
                continue
            if profile.thinks and rendered.inside != thinking:
                yield Proof(
                    "side",
                    False,
                    f"a prompt that is{'' if thinking else ' not'} to think ends on the wrong side of a thought",
                    _mend(shown),
                )
            elif not thinking and prompt is BARE:
                yield _outside(model, rendered.ids, template, tokens, shown)


def _outside(
    model: Model, ids: Sequence[int], template: ChatTemplate, tokens: Collection[str], shown: dict[str, Any] | None
) -> Proof:
    """A prompt that is not to think ends at no thought, whatever the profile says."""
    profile = model.profile
    tail = model.vocabulary.tokenizer.decode(list(ids[-TAIL:]), skip_special_tokens=False)
    tail = tail.rpartition("12 and 7?")[2] or tail
    found = [*pairs([*template.texts, *tokens], "\n".join([template.source, *tokens])), left_open(tail)]
    if profile.start:
        found.append(Pair(profile.start, profile.end))
    for one in found:
        if one is not None and not profile.channels and side(tail, one) == Side.INSIDE:
            words = f"not to think, a prompt ends within a thought that {one.start!r} opens"
            return Proof("side", False, words, _mend(shown))
    if not profile.thinks and shown is not None and not _switched(shown) and profile.name in PROFILES:
        words = f"the profile {profile.name!r} says that the model does not think, and its template shows that it does"
        return Proof("side", False, f"{words} ({shown['start']!r} ... {shown['end']!r})", _mend(shown))
    return Proof("side", True, "not to think, a prompt ends at no thought")


def _switched(shown: dict[str, Any]) -> bool:
    """Thinking can be switched off."""
    return bool(shown["switch"] or shown.get("off") or shown.get("system") or shown.get("word"))


def _split(model: Model, shown: dict[str, Any] | None) -> Proof:
    """Thought and answer of one sample are told apart, whatever portions they come in."""
    prompts = model.prompts
    ids = [*prompts.with_markers(THOUGHT), *_closing(model), *prompts.with_markers(ANSWER)]
    for size in PORTIONS:
        text, hidden = written(model, ids, thinking=len(ids) + 64, portion=size)
        if text.strip() != ANSWER or THOUGHT.strip() not in hidden:
            words = f"of a thought and the answer {ANSWER!r}, {text.strip()[:80]!r} is shown as the answer"
            return Proof("split", False, f"{words} (in portions of {size} tokens)", _mend(shown))
    return Proof("split", True, "thought and answer are told apart")


def _closing(model: Model) -> Sequence[int]:
    """What the model itself writes between thought and answer."""
    return model.prompts.with_markers(model.profile.closing)


def _forced(model: Model, shown: dict[str, Any] | None) -> Proof:
    """A thought that has used up its share is ended by force, wherever it is, and the answer is seen."""
    ids = model.prompts.with_markers(THOUGHT)
    answer = model.prompts.with_markers(ANSWER)
    for share in sorted({1, 2, len(ids) // 2, len(ids)}):
        text, _ = written(model, [*ids[:share]], thinking=share, portion=2, answer=answer)
        if text.strip() != ANSWER:
            words = f"behind a thought that was closed by force, {text.strip()[:80]!r} is shown, not {ANSWER!r}"
            return Proof("forced", False, words, _mend(shown))
    return Proof("forced", True, f"{model.profile.closing!r} ends a thought by force")


def _silent(model: Model, shown: dict[str, Any] | None) -> Proof:
    """With a budget of 0 the answer is all there is, and it is seen."""
    text, hidden = written(model, [], thinking=0, portion=2, answer=model.prompts.with_markers(ANSWER))
    if text.strip() != ANSWER or hidden.strip():
        return Proof(
            "silent", False, f"with thinking_budget 0, {text.strip()[:80]!r} is shown, not {ANSWER!r}", _mend(shown)
        )
    return Proof("silent", True, "with thinking_budget 0 the answer is all there is")


def _mend(shown: dict[str, Any] | None) -> str:
    if shown is None:
        return 'profile = "instruct" where the model does not think; else write a profile (docs/write-a-family.md)'
    return "in ponder.toml:\n" + table(Profile(name="mine", **shown))


# -- a chain, written by a script -------------------------------------------------------------------------------------


def written(
    model: Model, ids: Sequence[int], *, thinking: int, portion: int, answer: Sequence[int] = ()
) -> tuple[str, str]:
    """(what is shown, what is hidden) of a chain that may think so many tokens. The engine's first call makes `ids` as
    far as it may; a later one, or the first that is an answer's, makes `answer`."""
    prompt = BARE
    room = len(answer) + len(ids) + 64
    with Spending(Budget(thinking + room, room)).reserve("proof", thinking=thinking, answer=room) as reservation:
        transcript = Transcript(reservation, prompt)
        writing = Writing(model, prompt, Sampling(thinking, room), transcript)
        first = True
        while (call := writing.next_call()) is not None:
            made = list(ids if first and call.phase == "thought" else answer)
            first = False
            cut = made[: call.limit]
            whole = len(cut) == len(made) and len(cut) < call.limit
            if whole:
                cut.append(_end_of_turn(model))
            for at in range(0, max(1, len(cut)), portion):
                last = at + portion >= len(cut)
                if last:
                    call.reason = "stop" if whole else "length"
                writing.take(call, cut[at : at + portion], None, 0)
                if writing.cut:
                    break
            writing.settle(call)
        writing.finish()
        return "".join(writing.told), writing.thought()


def _end_of_turn(model: Model) -> int:
    """Any token does: what a model's turn ends with is told by the engine, not by the token."""
    return model.prompts.with_markers("\n")[-1]
