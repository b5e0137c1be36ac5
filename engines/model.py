"""What has to be known of a model to write with it: how prompts are encoded, its control tokens, its limits."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from functools import lru_cache
from typing import Any

from ponder.compute.engine import ModelCard
from ponder.engines.channels import ANSWER, END, HEAD
from ponder.engines.channels import BANNED as BANNED_WORDS
from ponder.engines.images import ImageReader
from ponder.engines.profiles import Profile, template_source
from ponder.engines.profiles.finding import added_tokens
from ponder.engines.prompts import Prompts
from ponder.engines.tools import format_of, openers_of, texts_of
from ponder.engines.vocabulary import Vocabulary

BANNED = -1e9

TEXTS = 64
"""Texts of ours whose ids are remembered."""


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
        images: ImageReader | None = None,
    ) -> None:
        """`context` in tokens, prompt and output together; `vocabulary_size` of the logits. `repetition_in_answers`:
        an answer that goes in circles is ended, as a thought is in any case. `images`: what reads images."""
        self.repetition_in_answers = repetition_in_answers
        tools = format_of(profile.tools, template_source(tokenizer), added_tokens(tokenizer), name)
        self.profile = profile = profile.model_copy(update={"tools": tools or "none"})
        self.prompts = Prompts(tokenizer, profile, context, images=images)
        self.vocabulary = Vocabulary.of(
            self.prompts.tokenizer, profile, openers=openers_of(tools), spelt=texts_of(tools)
        )
        self.step_stops = sorted(self.vocabulary.containing(profile.step))
        self.vocabulary_size = vocabulary_size
        harmony = self.vocabulary.harmony
        marked = profile.thinks or self.vocabulary.by_ids
        closing = "" if not marked else END + HEAD + ANSWER if harmony is not None else profile.closing
        wrapper = profile.wrapper[0].strip() if profile.thinks else ""
        self.closing_text = closing if wrapper in closing else closing + profile.wrapper[0]
        """Ends a thought by force, and opens what wraps the answer."""
        self.reclosing = closing.partition(wrapper)[0] if wrapper else closing
        """Ends a thought within an answer."""
        self.wrapping = self.closing_text.partition(profile.end)[2] if wrapper else ""
        """What stands between the end of a thought and an answer that is wrapped."""
        self.marked = lru_cache(maxsize=TEXTS)(self.prompts.with_markers)
        """The ids of a text of ours, markers as markers."""
        self.closing = self.marked(self.closing_text)
        self.turn_ends = self.prompts.turn_ends(harmony is None)
        """Tokens that end a turn, besides those that vLLM reads in the model's folder."""
        if harmony is not None:
            self.turn_ends = sorted(harmony.ends - {harmony.end})
        self.logit_bans: dict[int, float] = {}
        self.word_bans: list[str] = []
        if harmony is not None:
            self.word_bans = [BANNED_WORDS]
        elif marked and profile.start:
            if self.vocabulary.by_ids:
                numbers = (self.vocabulary.start_id, self.vocabulary.end_id)
                self.logit_bans = {i: BANNED for i in numbers if i is not None and i < self.vocabulary_size}
            else:
                self.word_bans = [profile.start.strip()]
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
            keeps_thoughts=profile.reads_thoughts == "always",
            created=int(time.time()),
            modalities=frozenset({"text", "image"} if self.prompts.reads_images else {"text"}),
            images=self.prompts.reads_images,
            tools=tools,
            markers=(profile.opening, self.closing_text) if profile.thinks else ("", ""),
        )

    def named(self, name: str) -> Model:
        """The same under another name: with an adapter, say."""
        made = copy.copy(self)
        made.card = replace(self.card, name=name)
        return made
