"""One chain: which calls it takes, and what becomes of every token. It knows nothing of the engine that draws them.

The common chain is one call to the engine: thought and answer within the thinking limit. Where that limit is reached
inside the thought, the thought is closed by force and a second call over the cached prefix writes the answer. So what a
chain costs is bounded by the `max_tokens` of its calls, never by stopping in time: an answer that outgrows its own
limit within the first call is cut there, and what was made behind the cut is within the thinking limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ponder.compute.engine import Delta, Sampling
from ponder.compute.errors import EngineError, RequestError
from ponder.compute.text import Candidate, Ending, Hidden, Prompt, TokenLogprob
from ponder.compute.transcript import Transcript
from ponder.engines.boundary import Boundary, headed
from ponder.engines.channels import HEAD, Harmony, Turn
from ponder.engines.logprobs import FlatLogprobs, Spelling, likelihood, token_logprobs
from ponder.engines.model import Model
from ponder.engines.thinking import Splitter

UNSTREAMED = 64
"""Tokens between two outputs of a chain that is not streamed, at most."""

SHORTEST = 16
"""The same at least, however short the answer is to be."""


Phase = Literal["thought", "answer"]


@dataclass(slots=True)
class Call:
    """One call to the engine: what is asked of it, and how it ended."""

    phase: Phase
    ids: list[int]
    limit: int
    """Tokens at most."""
    stops: list[int]
    """Tokens that end it, the last of what it draws."""
    every: int
    """Tokens between two outputs, at most."""
    thought_only: bool
    """The answer is drawn by a call of its own."""
    watched: bool
    """It ends where it goes in circles."""
    continued: int
    """Of the last of `ids`, so many are of this thought or answer; 0 where nothing depends on it."""
    headless: bool
    """It begins within the head of a message, before its body."""
    seed: int | None
    read: bool = False
    """What was read is counted."""
    begun: bool = False
    """It has made a token, so its prompt is read."""
    cached: int = 0
    """Of that, the tokens from the prefix cache, where they were told apart from the first output."""
    reason: str | None = None
    """"stop", "length", "repetition", "abort" or "error"; None until it has ended."""
    stop: int | str | None = None
    """The token or the text that ended it; None for the model's own end of turn."""


class Writing:
    """One chain: decides on its calls to the engine and tells its transcript every token."""

    def __init__(self, model: Model, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> None:
        self.model, self.sampling, self.transcript = model, sampling, transcript
        self.ending: Ending = "aborted"
        self.over: Ending | None = None
        self.cut = False
        """What the call still makes is discarded."""
        self.unseen = False
        """A call has ended whose last tokens may not have come."""
        self.told: list[str] = []
        """The visible text, in the pieces it came in."""
        self.tokens: list[TokenLogprob] = []
        vocabulary = model.vocabulary
        begun = transcript.begun
        self.chain = list(begun.ids.unseal()) if begun else []
        if begun is None:
            on = sampling.thinking > 0
        else:
            on = begun.thinking or begun.forced or bool(begun.thought.unseal()) or vocabulary.ended(self.chain)
        self.thought_first = on
        """What is kept begins with a thought."""
        rendered = model.prompts.render(prompt, thinking=on)
        self.prompt_ids, self.media = rendered.ids, rendered.media
        turn: Turn | None = None
        if vocabulary.harmony is not None:
            turn = self._turn(vocabulary.harmony, rendered.inside)
            self.inside = turn.inside
        elif begun is None:
            self.inside = rendered.inside
        else:
            self.inside = model.profile.thinks and (begun.thinking or vocabulary.reopened(self.chain))
        self.earlier = "" if begun is None or begun.thinking else begun.thought.unseal()
        wrapped = rendered.wrapped or (begun is not None and vocabulary.wrapped(self.chain, on))
        self.splitter = Splitter(
            vocabulary,
            inside=self.inside,
            stop=sampling.stop,
            said=() if self.inside else self.chain,
            text=begun.text if begun else "",
            unread=self._unread(begun) if begun else "",
            thought=self.chain if self.inside else (),
            calls=bool(prompt.tools),
            words=sampling.grammar is None,
            wrapped=wrapped,
            turn=turn,
            midway=rendered.midway,
        )
        self.spelling = Spelling()
        self.begun_thought = list(self.chain) if begun and begun.thinking else []
        self.boundary = Boundary(
            model,
            sampling,
            transcript,
            self.splitter,
            self.chain,
            thought_first=on,
            calls=bool(prompt.tools),
            apart=begun is not None,
        )
        if not self.inside:
            transcript.close_thought()
        self.calls = 0
        if model.card.context - len(self.prompt_ids) - len(self.chain) < 1:
            raise RequestError(
                f"This model's maximum context length is {model.card.context} tokens. However, the prompt has "
                f"{len(self.prompt_ids) + len(self.chain)} tokens.",
                param="messages",
                code="context_length_exceeded",
            )

    def _turn(self, harmony: Harmony, inside: bool) -> Turn:
        """Where the chain stands in a turn of messages."""
        grammar, head = self.sampling.grammar, self.model.marked(HEAD)
        if headed(self.sampling) and self.prompt_ids[-len(head) :] == head:
            self.prompt_ids = self.prompt_ids[: -len(head)]
        only = grammar is not None and not grammar.calls
        return Turn(harmony, inside=inside, prompt=self.prompt_ids, chain=self.chain, final_only=only)

    def _unread(self, begun: Candidate) -> str:
        """Visible text of a half-written answer that was kept back as the possible begin of a stop string or marker."""
        vocabulary = self.model.vocabulary
        start = [vocabulary.start] if vocabulary.mechanism == "text" else []
        markers = [*self.sampling.stop, *start, *vocabulary.wrapper]
        if self.inside or not any(markers):
            return ""
        text = vocabulary.last_answer(self.chain)
        if not begun.text.endswith(text):
            # What is read of a character that is not complete.
            text = text.rstrip("\ufffd")
        for size in range(min(len(text) + 1, max(map(len, markers)))):
            if begun.text.endswith(text[: len(text) - size]):
                return text[len(text) - size :]
        return ""

    # -- what to ask of the engine ------------------------------------------------------------------------------------

    def next_call(self) -> Call | None:
        """The next call, or None when the chain has ended; `ending` says how."""
        if self.over is not None:
            self.ending = self.over
            return None
        room = self.model.card.context - len(self.prompt_ids) - len(self.chain)
        if self.sampling.total is not None:
            room = min(room, self.sampling.total - self.transcript.hidden - self.transcript.visible)
        if self.splitter.inside:
            # Room in the context for the closing phrase and an answer; no limit of the caller's is touched by this.
            spare = self.model.card.context - len(self.prompt_ids) - len(self.chain) - len(self.model.closing)
            kept = self.sampling.answer
            if self.sampling.total is not None:
                kept = max(1, min(kept, self.sampling.total - self.sampling.thinking))
            limit = min(room, self.sampling.thinking - self.transcript.hidden, spare - min(kept, spare // 2))
            if limit > 0:
                return self._call("thought", limit)
            if self._stays_open:
                self.ending = "length"
                return None
            self.boundary.close()
            return self.next_call()
        if self.sampling.unanswered:
            self.ending = "step"
            return None
        room -= self.boundary.open()
        limit = min(room, self.sampling.answer - self.transcript.visible)
        if limit > 0:
            return self._call("answer", limit)
        self.ending = "length"
        return None

    @property
    def _stays_open(self) -> bool:
        """A thought that reaches its limit is not closed."""
        return self.sampling.until is not None or self.sampling.unclosed

    def _call(self, phase: Phase, limit: int) -> Call:
        sampling, model = self.sampling, self.model
        stops: list[int] = []
        every = 1 if sampling.streamed else min(UNSTREAMED, max(SHORTEST, sampling.answer))
        if sampling.every is not None:
            every = min(every, max(1, sampling.every))
        thought_only = False
        if phase == "thought":
            if sampling.until is not None:
                stops += self._steps(sampling.until)
            thought_only = self._thought_only(limit)
            if thought_only:
                stops += self.boundary.ends
                if self.splitter.late:
                    every = 1
        elif sampling.until is not None and not model.profile.thinks:
            stops += self._steps(sampling.until)
        watched = phase == "thought" or model.repetition_in_answers
        continued = self._written(phase) if watched or sampling.grammar is not None else 0
        seed = None if sampling.seed is None else (sampling.seed + self.calls) % 2**63
        self.calls += 1
        self.cut = False
        self.boundary.apart = thought_only
        ids = [*self.prompt_ids, *self.chain]
        headless = self.splitter.turn is not None and self.splitter.turn.head is not None
        return Call(phase, ids, limit, stops, every, thought_only, watched, continued, headless, seed)

    def _written(self, phase: Phase) -> int:
        """Tokens of this thought or this answer that are there before the call."""
        if phase == "thought":
            return len(self.chain)
        return len(self.chain) - self.model.vocabulary.answer_at(
            self.chain, self.thought_first, headed=headed(self.sampling)
        )

    def _steps(self, until: str) -> list[int]:
        if until == self.model.profile.step:
            return list(self.model.step_stops)
        return sorted(self.model.vocabulary.containing(until))

    def _thought_only(self, limit: int) -> bool:
        """The answer needs a call of its own: it is drawn in another way than the thought, or likely cut short."""
        wishes = self.sampling
        return (
            wishes.unanswered
            or wishes.grammar is not None
            or wishes.logprobs is not None
            or bool(wishes.logit_bias)
            or bool(wishes.stop)
            or wishes.until is not None
            or (wishes.tight and wishes.answer < limit)
        )

    # -- what came of it ----------------------------------------------------------------------------------------------

    def take(self, call: Call, ids: Sequence[int], logprobs: FlatLogprobs | None, cached: int | None) -> Delta | None:
        """Tells the transcript the tokens of an output. With the last one of a call, its `reason` has been set.
        `cached`: of the prompt, what was in the prefix cache; None where that is known (`Call.cached`) at the end."""
        if ids and not call.read:
            # With the first token the prompt is read; the engine counts it then, too.
            call.begun = True
            if cached is not None:
                call.read = True
                self.transcript.read(len(call.ids), cached)
        before = len(self.told)
        tokens_before = len(self.tokens)
        if ids:
            # A stop that was not asked for is the model's own end of turn, of which some have several.
            own = call.stop is None or (isinstance(call.stop, int) and call.stop not in call.stops)
            ended = call.reason == "stop" and (own or self.boundary.barred(call.stop))
            self._told(ids[:-1] if ended else ids, logprobs, call)
            if ended:
                self._told_end(ids[-1], likelihood(logprobs, len(ids) - 1, len(ids)), call)
        if len(self.told) == before and len(self.tokens) == tokens_before:
            return None
        thought = None if before or not self.sampling.tells_thought else self._thought_before()
        return Delta("".join(self.told[before:]), tuple(self.tokens[tokens_before:]), thought)

    def _thought_before(self) -> Hidden[str] | None:
        """The thought behind which the first text is; None where it goes on."""
        return None if self.splitter.inside else Hidden(self.thought())

    def _told(self, ids: Sequence[int], logprobs: FlatLogprobs | None, call: Call) -> None:
        """Tokens of a thought or an answer."""
        done = 0
        if self.cut:
            pass
        elif call.phase == "thought" and (
            self.transcript.visible + len(ids) > self.sampling.answer or self._ends_late(call)
        ):
            # The answer may be full or, drawn by itself, begin within these tokens: no more at a time than are certain.
            while done < len(ids) and not self.cut:
                room = self.sampling.answer - self.transcript.visible
                size = self.splitter.ahead(ids[done:]) if self.splitter.inside else 0
                if (size := size or room) > 0:
                    done += self._split(ids[done : done + size], logprobs, done, call)
                else:
                    self._rest("length")
        else:
            done = self._split(ids, logprobs, 0, call)
        if done < len(ids):
            self.surplus(ids[done:], call)

    def _ends_late(self, call: Call) -> bool:
        """The engine does not stop at the end of this thought, a marker that is text, though the answer is drawn by
        itself: what comes in one output with the marker is discarded."""
        return call.thought_only and self.splitter.inside and self.splitter.late

    def _rest(self, ending: Ending) -> None:
        self.over = ending
        self.cut = True

    def _split(self, ids: Sequence[int], logprobs: FlatLogprobs | None, offset: int, call: Call) -> int:
        """Tells the transcript which of these tokens are thought and which answer; returns how many it told."""
        transcript, splitter = self.transcript, self.splitter
        was_inside = splitter.inside
        done = 0
        for part in splitter.feed(ids):
            run = ids[part.first : part.last]
            likely = likelihood(logprobs, offset + part.first, offset + part.last) if self.sampling.likelihood else ()
            self.chain.extend(run)
            done = part.last
            if part.hidden and call.phase == "thought":
                transcript.think(run, likely)
                if self.sampling.grammar is not None or self.sampling.unanswered:
                    # The answer begins behind the token that ends the thought, whatever that spells beyond it.
                    continue
                if part.text:
                    transcript.close_thought()
                    transcript.say((), part.text)
            else:
                if was_inside:
                    transcript.close_thought()
                    was_inside = False
                tokens = () if part.hidden else self._logprobs(logprobs, run, offset + part.first)
                if self.sampling.logprobs is not None:
                    tokens = self.spelling.told(tokens, part.text)
                transcript.say(run, part.text, likely, tokens)
                self.tokens.extend(tokens)
            if part.text:
                self.told.append(part.text)
        if was_inside and not splitter.inside:
            transcript.close_thought()
        if splitter.stopped:
            self._rest("stop")
        elif call.phase == "thought" and not splitter.inside and call.thought_only and splitter.late:
            # Here the answer's own call begins.
            self.cut = True
        return done

    def surplus(self, ids: Sequence[int], call: Call) -> None:
        """Tokens made behind a stop string or past the answer's limit. Behind a thought they are within its limit."""
        if call.phase == "thought":
            self.transcript.discard(len(ids), ids)
        else:
            self.transcript.say(ids, "", (0.0,) * len(ids) if self.sampling.likelihood else ())

    def _told_end(self, token: int, likely: Sequence[float], call: Call) -> None:
        """The model's end of turn."""
        if self.cut:
            self.surplus((token,), call)
        elif self.splitter.inside:
            # It ended its turn in the middle of a thought: the thought is closed and the answer asked for.
            self.surplus((token,), call)
        elif call.phase == "thought" and self.transcript.visible >= self.sampling.answer:
            self._rest("length")
            self.transcript.discard(1, (token,))
        else:
            self.chain.append(token)
            text = self.splitter.end(token)
            self.transcript.say((token,), text, likely if self.sampling.likelihood else ())
            if text:
                self.told.append(text)
            self.over = "finished"

    def settle(self, call: Call) -> None:
        """A call is over, by itself or aborted."""
        if not call.read:
            self.transcript.read(len(call.ids) if call.begun else 0, call.cached if call.begun else 0)
        if self.over is not None or call.reason in (None, "abort"):
            return
        if call.reason == "error":
            raise EngineError(f"model {self.model.card.name}: the engine gave up on a request")
        if self.cut:
            return
        if call.reason == "repetition":
            # In an answer it counts where the operator asks only; else the answer goes on, in a call of its own.
            if self.splitter.inside:
                self.transcript.circled()
                self.boundary.close()
            elif self.model.repetition_in_answers:
                self.transcript.circled()
                self.over = "length"
        elif call.reason == "length":
            if call.phase == "answer":
                self.over = "length"
            elif self.splitter.inside:
                if self._stays_open:
                    self.over = "length"
                else:
                    self.boundary.close()
        elif call.stop in call.stops and not self.boundary.barred(call.stop) and self.boundary.passed(call.stop):
            pass
        elif self.sampling.until is not None and (self.splitter.inside or not self.model.profile.thinks):
            if self.chain and call.stop == self.chain[-1]:
                self.over = "step"
            else:
                self.boundary.close()
        elif self.splitter.inside:
            if self.sampling.unanswered:
                self.over = "step"
            else:
                self.boundary.close()

    def finish(self) -> Delta | None:
        """Ends the chain; returns what of the visible text was kept back."""
        rest = "" if self.sampling.unanswered else self.splitter.finish()
        tokens = self.spelling.last(rest)
        if not rest and not tokens:
            return None
        self.transcript.say((), rest, (), tokens)
        thought = None if self.told or not self.sampling.tells_thought else self._thought_before()
        if rest:
            self.told.append(rest)
        self.tokens.extend(tokens)
        return Delta(rest, tokens, thought)

    def last(self) -> Delta | None:
        """Ends the chain; returns what is still to be sent on: what was kept back of a text that is streamed, else the
        whole text. None where that is nothing."""
        rest = self.finish()
        if self.sampling.streamed:
            return rest
        return Delta("".join(self.told), tuple(self.tokens)) if self.told or self.tokens else None

    def thought(self) -> str:
        return self.earlier + self.model.vocabulary.decode([*self.begun_thought, *self.splitter.thought])

    def _logprobs(self, logprobs: FlatLogprobs | None, ids: Sequence[int], offset: int) -> tuple[TokenLogprob, ...]:
        wanted = self.sampling.logprobs
        if wanted is None or logprobs is None:
            return ()
        return token_logprobs(logprobs, ids, offset, wanted, self.model.vocabulary.bytes)
