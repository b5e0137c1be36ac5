"""What became of a request, call by call: `GET /v1/traces/{id}`, numbers only, for a key with the scope `trace`.

Traces are kept in memory, the latest few of each server and no more than so many bytes: numbers, packed. Servers that
share a PostgreSQL show each other's, too (`ponder.server.shared_traces`). Text (of prompts, thoughts and answers) only
where the operator has switched that on (`retain_text`); it is shown to a key with the scope `reveal`.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from array import array
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse

from ponder.compute.budget import Reservation, Spending
from ponder.compute.errors import NotFound
from ponder.compute.outcome import Outcome
from ponder.compute.text import Hidden, Prompt
from ponder.metering.clock import milliseconds
from ponder.server import unseal
from ponder.server.auth.access import Caller
from ponder.server.plan import ResolvedRequest
from ponder.server.shared_traces import SharedTraces
from ponder.server.trace_shapes import asked

OVERHEAD = 2048
"""Bytes of a trace beside its calls."""
EACH = 256
"""Bytes of a judgement beside the chains it is about."""
ROWS = 256
"""Calls that are written in one piece: other requests have their turn between two."""
NONE = math.nan
GONE = "there is no such trace; the latest ones are kept"


class Calls:
    """The calls of one answer, in the order they were made, as rows of numbers."""

    WIDTH = 19

    def __init__(self, spending: Spending, only: Sequence[Reservation] | None = None) -> None:
        """Of all its calls, or `only` of some."""
        self._words: list[str] = []
        begun = spending.reservations[0].started if spending.reservations else 0.0
        chosen = spending.line(spending.chosen)
        self._rows = array("d")
        for reservation in spending.reservations if only is None else only:
            self._rows.extend(self._row(reservation, begun, reservation.number in chosen))

    def _row(self, reservation: Reservation, begun: float, chosen: bool) -> tuple[float, ...]:
        return (
            NONE if reservation.parent is None else reservation.parent,
            self._word(reservation.purpose),
            reservation.thinking,
            reservation.answer,
            reservation.hidden,
            reservation.visible,
            reservation.prompt,
            reservation.cached,
            reservation.calls,
            reservation.started - begun,
            NONE if reservation.seconds is None else reservation.seconds,
            NONE if reservation.ending is None else self._word(reservation.ending),
            NONE if reservation.score is None else reservation.score,
            NONE if reservation.answer_group is None else reservation.answer_group,
            chosen,
            reservation.wasted,
            reservation.forced,
            NONE if reservation.circled is None else self._word(reservation.circled),
            reservation.unseen,
        )

    def _word(self, word: str) -> int:
        if word not in self._words:
            self._words.append(word)
        return self._words.index(word)

    @property
    def bytes(self) -> int:
        return sys.getsizeof(self._rows)

    def __len__(self) -> int:
        return len(self._rows) // self.WIDTH

    def told(self, number: int) -> dict[str, Any]:
        """A call: numbers, purpose and scores, no text."""
        row = self._rows[number * self.WIDTH : (number + 1) * self.WIDTH]
        whole = [None if math.isnan(value) else int(value) for value in row]
        parent, purpose, thinking, answer, hidden, visible, prompt, cached, calls = whole[:9]
        tokens = {"hidden": hidden, "visible": visible, "prompt": prompt, "cached": cached, "wasted": whole[15]}
        return {
            "number": number,
            "parent": parent,
            "purpose": self._words[purpose or 0],
            "held": {"thinking": thinking, "answer": answer},
            "tokens": tokens,
            "calls": calls,
            "started": round(row[9], 6),
            "seconds": None if math.isnan(row[10]) else round(row[10], 6),
            "ending": None if whole[11] is None else self._words[whole[11]],
            "score": None if math.isnan(row[12]) else row[12],
            "vote": whole[13],
            "chosen": bool(row[14]),
            "forced": bool(row[16]),
            "circled": None if whole[17] is None else self._words[whole[17]],
            "unseen": bool(row[18]),
        }


@dataclass(frozen=True, slots=True)
class Told:
    """One answer: its calls, and how it ended where the request came to an answer."""

    tokens: Mapping[str, int]
    idle_seconds: float
    facts: Mapping[str, str | float]
    calls: Calls
    texts: unseal.Texts
    ids: unseal.Ids
    """What each call has made, where texts are kept and receipts made; the judgements are, too."""
    likely: unseal.Likely
    """How likely the model found the chain up to the end of each call, where texts are kept and that was recorded."""
    judgements: Sequence[tuple[Sequence[int], int, int]]
    """Of each question to a reward model the numbers of its chains, and the tokens read, of which cached."""
    prompt: Hidden[str] | None = None
    """What was asked, as JSON, where texts are kept."""

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        asked = sum(EACH + 8 * len(chains) for chains, _, _ in self.judgements)
        hidden = unseal.size(self.texts, self.ids, self.likely, self.prompt)
        return OVERHEAD + self.calls.bytes + hidden + asked


@dataclass(frozen=True, slots=True)
class Trace:
    """One request that is over."""

    key_id: str
    model: str
    strategy: str
    budget: int
    ended: str
    seconds: float
    at_ms: int
    """When it ended, in milliseconds since 1970."""
    choices: tuple[Told, ...]
    salt: Hidden[bytes] | None = None
    """Of its receipt, where ids are kept."""
    markers: tuple[str, str] = ("", "")
    """What its model writes before and behind a thought."""

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return OVERHEAD + sum(one.bytes for one in self.choices) - unseal.shared([one.prompt for one in self.choices])

    @property
    def has_text(self) -> bool:
        """Texts were kept with it."""
        return any(one.texts for one in self.choices)

    def silent(self) -> Trace:
        """The same without texts."""
        gone: dict[str, Any] = {"texts": {}, "ids": {}, "likely": {}, "judgements": (), "prompt": None}
        choices = tuple(replace(one, **gone) for one in self.choices)
        return replace(self, choices=choices, salt=None)


def trace(
    resolved: ResolvedRequest,
    ended: str,
    seconds: float,
    spendings: Sequence[Spending],
    outcomes: Sequence[Outcome | None],
    salt: bytes | None = None,
) -> Trace:
    """What of a request is worth keeping. `spendings` is empty where it never began; `salt` is that of its receipt."""
    made = zip(spendings, outcomes, resolved.plans, strict=False)
    said: dict[int, Hidden[str]] = {}
    choices = tuple(told(spending, outcome, plan.prompt, said) for spending, outcome, plan in made)
    kept = Hidden(salt) if salt is not None and any(one.ids for one in choices) else None
    markers = resolved.resources.engine.card.markers
    return Trace(
        resolved.key_id,
        resolved.base,
        resolved.strategy,
        resolved.budget,
        ended,
        seconds,
        milliseconds(),
        choices,
        kept,
        markers,
    )


def told(
    spending: Spending,
    outcome: Outcome | None,
    prompt: Prompt | None = None,
    said: dict[int, Hidden[str]] | None = None,
) -> Told:
    """What of a choice is worth keeping. `outcome` is None where it came to none; `prompt` is that of its plan; `said`
    are prompts of other choices as JSON, by their `id`: most have the same one, which is written once."""
    spent = spending.spent
    tokens = {"hidden": spent.hidden, "visible": spent.visible, "verifier": spent.verifier}
    facts = {} if outcome is None else _facts(outcome)
    made = {one.number: one.made.ids for one in spending.reservations if one.made is not None}
    ids = {number: kept for number, kept in made.items() if kept is not None}
    judgements = [(one.chains, one.tokens, one.cached) for one in spending.reward_reads] if ids else ()
    likely = {number: unseal.windows(one) for number, one in spending.likelihoods.items()}
    texts = texts_of(spending, prompt)
    question = None
    if texts and prompt is not None:
        said = {} if said is None else said
        question = said[id(prompt)] = said.get(id(prompt)) or Hidden(asked(prompt))
    calls = Calls(spending)
    return Told(tokens, spending.idle_seconds, facts, calls, texts, ids, likely, judgements, question)


def texts_of(spending: Spending, prompt: Prompt | None) -> dict[int, unseal.Text]:
    """What its calls have written, by their numbers; `prompt` is that of its plan."""
    return {
        number: unseal.Text(one.thought, one.answer, one.forced, one.prompt is prompt)
        for number, one in spending.texts.items()
    }


def _facts(outcome: Outcome) -> dict[str, str | float]:
    facts: dict[str, str | float] = {"stopped_by": outcome.stopped_by}
    if outcome.agreement is not None:
        facts["agreement"] = outcome.agreement
    if outcome.confidence is not None:
        facts["confidence"] = outcome.confidence
    return facts


class Traces:
    """The latest requests of this server, by `x-request-id`."""

    def __init__(self, most: int, most_bytes: int, shared: SharedTraces | None = None) -> None:
        """`shared`: where other servers look for them, and these for theirs; None: there are no others."""
        self._most, self._most_bytes, self.shared = most, most_bytes, shared
        self._kept: OrderedDict[str, tuple[Trace, int]] = OrderedDict()
        self._bytes = 0

    def keep(self, request_id: str, trace: Trace) -> None:
        """One that alone is too large is kept without its texts, or not at all."""
        if not self._most or not trace.choices:
            return
        if (size := trace.bytes) > self._most_bytes:
            trace = trace.silent()
            size = trace.bytes
        if size > self._most_bytes:
            return
        self._kept[request_id] = trace, size
        self._bytes += size
        if self.shared is not None:
            self._share(self.shared, request_id, trace)
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            _, (_, size) = self._kept.popitem(last=False)
            self._bytes -= size

    def _share(self, shared: SharedTraces, id: str, trace: Trace) -> None:
        names = ("key_id", "model", "strategy", "budget", "ended", "seconds", "has_text")

        def whole() -> str:
            return "".join(_pieces(id, trace, reveals=True))

        def silent() -> str:
            return "".join(_pieces(id, trace.silent(), reveals=False))

        shared.keep(id, {name: getattr(trace, name) for name in names}, (whole, silent))

    def latest(self) -> list[tuple[str, Trace]]:
        """Those that are kept, the newest first, with their ids."""
        return [(id, trace) for id, (trace, _) in reversed(self._kept.items())]

    async def one(self, id: str, key: Caller) -> Response:
        """Tells what became of a request, by its `x-request-id`. A key sees its own requests, with the scope `admin`
        all."""
        trace, _ = self._kept.get(id, (None, 0))
        if trace is None and self.shared is not None and (found := await self.shared.one(id)) is not None:
            owner, told = found
            if key.may("admin") or owner == key.id:
                return JSONResponse(told(key.may("reveal")))
        if trace is None or not (key.may("admin") or trace.key_id == key.id):
            raise NotFound(GONE, param="id", code="trace_not_found")
        return StreamingResponse(
            _in_turns(_pieces(id, trace, reveals=key.may("reveal"))), media_type="application/json"
        )


async def _in_turns(pieces: Iterator[str]) -> AsyncGenerator[str]:
    """The pieces, with a turn for everybody else between two."""
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)


def _pieces(asked: str, trace: Trace, *, reveals: bool) -> Iterator[str]:
    """The JSON text of a trace, piece by piece."""
    head: dict[str, Any] = {
        "id": asked,
        "object": "trace",
        "model": trace.model,
        "strategy": trace.strategy,
        "budget": trace.budget,
        "ended": trace.ended,
        "seconds": round(trace.seconds, 6),
        "ended_at": trace.at_ms // 1000,
    }
    if reveals and trace.salt is not None:
        head["salt"] = unseal.salt(trace.salt)
    if reveals and trace.has_text:
        head["markers"] = dict(zip(("before", "behind"), trace.markers, strict=True))
    piece = json.dumps(head)[:-1] + ', "choices": ['
    for index, choice in enumerate(trace.choices):
        facts: dict[str, Any] = {
            "index": index,
            "tokens": choice.tokens,
            "orchestration_seconds": round(choice.idle_seconds, 6),
            **choice.facts,
        }
        if reveals and choice.ids:
            names = ("chains", "tokens", "cached")
            facts["reads"] = [dict(zip(names, read, strict=True)) for read in choice.judgements]
        piece += (", " if index else "") + json.dumps(facts)[:-1]
        if reveals and choice.prompt is not None:
            piece += ', "prompt": ' + unseal.given(choice.prompt)
        piece += ', "calls": ['
        for number in range(len(choice.calls)):
            call = choice.calls.told(number)
            shown = reveals and number in choice.texts
            if shown:
                call["text"] = unseal.shown(choice.texts[number])
            if reveals and number in choice.likely:
                call["likelihood"] = {"window": unseal.WINDOW, "means": unseal.means(choice.likely[number])}
            if reveals and number in choice.ids:
                shown = True
                call["ids"] = unseal.ids(choice.ids[number])
            piece += (", " if number else "") + json.dumps(call)
            if shown or number % ROWS == ROWS - 1:
                yield piece
                piece = ""
        piece += "]}"
    yield piece + "]}"
