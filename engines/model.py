"""What has to be known of a model to write with it: how prompts are encoded, its control tokens, its limits."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

from ponder.compute.engine import Grammar, ModelCard
from ponder.engines.grammars import encoded
from ponder.engines.profiles import Profile
from ponder.engines.prompts import Prompts
from ponder.engines.thinking import Vocabulary

BANNED = -1e9

GRAMMARS = 64
"""Grammars that are remembered: each is asked for at least twice, before an answer and for it."""


class Model:
    """A model as it is written with, apart from the engine it runs in."""

    def __init__(
        self,
        tokenizer: Any,
        profile: Profile,
        name: str,
        *,
        context: int,
        vocabulary_size: int,
        repetition_in_answers: bool = False,
    ) -> None:
        """`context` in tokens, prompt and output together; `vocabulary_size` of the logits. `repetition_in_answers`:
        an answer that goes in circles is ended, as a thought is in any case."""
        self.repetition_in_answers = repetition_in_answers
        self.profile = profile
        self.prompts = Prompts(tokenizer, profile, context)
        marks = (profile.start, profile.end) if profile.thinks else ("", "")
        self.vocabulary = Vocabulary(tokenizer.backend_tokenizer, *marks)
        self.step_stops = sorted(self.vocabulary.containing(profile.step))
        self.vocabulary_size = vocabulary_size
        closing = profile.closing if profile.thinks else ""
        self.closing = self.prompts.with_markers(closing)
        self.closing_behind_newline = self.prompts.with_markers(closing.lstrip("\n"))
        self.logit_bans: dict[int, float] = {}
        self.word_bans: list[str] = []
        if profile.thinks and profile.start:
            if self.vocabulary.by_ids:
                numbers = (self.vocabulary.start_id, self.vocabulary.end_id)
                self.logit_bans = {i: BANNED for i in numbers if i is not None and i < self.vocabulary_size}
            else:
                self.word_bans = [profile.start]
        self._encoded = lru_cache(maxsize=GRAMMARS)(encoded)
        step = profile.step.encode()
        self.card = ModelCard(
            name=name,
            context=context,
            thinks=profile.thinks,
            typical_chain=profile.typical_chain,
            temperature=profile.temperature,
            top_p=profile.top_p,
            top_k=profile.top_k,
            min_p=profile.min_p,
            step=profile.step,
            step_ids=frozenset(i for i in self.step_stops if self.vocabulary.bytes(i).endswith(step)),
            shows_thoughts=profile.shows_thoughts,
            created=int(time.time()),
        )

    def encoded(self, grammar: Grammar) -> tuple[str, str]:
        """The grammar's kind and its text, as the engine takes it. Raises `RequestError` for a schema that cannot be
        enforced."""
        return self._encoded(grammar)
