"""One vLLM server, as anybody starts it, behind the contract of `ponder.compute.engine.Engine`.

Which calls a chain takes and what of it is hidden is decided in `writing`, as for a model in this process. Here each
call is one request over HTTP. When it is given up, the connection is closed, by which vLLM stops; all tokens that had
come by then are counted, and what was made behind them nobody saw: it is not guessed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

from ponder.compute.clock import now
from ponder.compute.engine import Checked, Delta, Sampling
from ponder.compute.errors import EngineError, Lost, RequestError
from ponder.compute.slots import Slots
from ponder.compute.text import Hidden, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.held_grammars import Held, unenforceable
from ponder.engines.launch import GRAMMAR_SECONDS
from ponder.engines.model_engine import CHECK_SECONDS, FRESH_SECONDS, ModelEngine
from ponder.engines.profiles import Profile
from ponder.engines.replicas.circles import Circles
from ponder.engines.replicas.completions import COMPLETIONS, Output, Reader, body, continuing, streamed
from ponder.engines.replicas.connection import Access, Connection
from ponder.engines.replicas.features import ABORT, Features, look
from ponder.engines.replicas.known import KnownModel, know, no_grammars
from ponder.engines.replicas.metrics import load_of
from ponder.engines.replicas.replica import Load, NotTaken
from ponder.engines.writing import Call, Writing

log = logging.getLogger(__name__)

PLACES = 256
"""Calls that a server works on at a time, where its operator says nothing: vLLM's own default of `--max-num-seqs`."""
SILENT_SECONDS = 15.0
"""A server that sends nothing for so long is asked whether it lives."""
STUCK_SECONDS = 600.0
"""One that lives and sends no token for so long has forgotten the call."""
END_SECONDS = 2.0
"""For the counts behind the last token, and for the last tokens of a call that was ended."""
UNSEEN = 16
"""Tokens between two outputs at most, where a call that is given up ends without its last output: so few go unseen."""


async def open_server(
    url: str,
    path: str,
    *,
    name: str,
    profile: Profile | None = None,
    access: Access | None = None,
    served: str | None = None,
    places: int = PLACES,
    repetition_in_answers: bool = False,
    grammar_seconds: float = GRAMMAR_SECONDS,
    trust_remote_code: bool = False,
) -> VllmServer:
    """The model served at `url`, whose tokenizer is in the folder `path` or has that hub id. `served`: the name that it
    has there, None where there is one alone. `places`: calls it works on at a time. Raises `EngineError` in plain words
    where it cannot be used; what it cannot do is said in the log."""
    known = await know(
        path,
        name=name,
        profile=profile,
        repetition_in_answers=repetition_in_answers,
        grammar_seconds=grammar_seconds,
        trust_remote_code=trust_remote_code,
    )
    try:
        server = await connect(url, known, access=access, served=served, places=places)
    except BaseException:
        known.close()
        raise
    server.owned = known
    return server


async def connect(
    url: str, known: KnownModel, *, access: Access | None = None, served: str | None = None, places: int = PLACES
) -> VllmServer:
    """One of several servers of a model; see `open_server`. What is known of the model is not closed with it."""
    connection = Connection(url, access or Access(), f"the vLLM server at {url}")
    try:
        try:
            features = await look(connection, known, served)
        except RequestError as error:
            raise EngineError(f"{connection.who} refuses what every vLLM server answers: {error.message}") from None
    except BaseException:
        await connection.close()
        raise
    for wanting in features.shortcomings:
        log.warning("%s: %s", connection.who, wanting)
    return VllmServer(connection, known, features, places=places)


class VllmServer(ModelEngine):
    """One model in a vLLM server; fulfils `ponder.engines.replicas.replica.Replica`."""

    def __init__(self, connection: Connection, known: KnownModel, features: Features, *, places: int = PLACES) -> None:
        self.connection, self.known, self.features = connection, known, features
        self.model = known.model(features.context)
        self.slots: Slots | None = Slots(places, self.model.profile.typical_chain[0])
        self.owned: KnownModel | None = None
        """What is closed with it."""
        self._numbers = itertools.count()
        self._door = secrets.token_hex(4)
        """Calls of one name may come from several servers of ours."""
        self._seen = float("-inf")
        """When it last made a token."""

    @property
    def url(self) -> str:
        """See `ponder.engines.replicas.replica.Replica`."""
        return self.connection.url

    async def accept(self, sampling: Sampling) -> None:
        """Raises `RequestError` for wishes that the server cannot fulfil; see the contract."""
        self.check_bias(sampling)
        most = self.features.logprobs
        if (sampling.logprobs or 0) > (most or 0) or (most is None and sampling.logprobs is not None):
            raise RequestError(
                "this model's server gives no log-probabilities"
                if most is None
                else f"this model's server gives the log-probabilities of at most {most} tokens",
                param="top_logprobs",
                code="unsupported_parameter",
            )
        if most is None and sampling.likelihood:
            raise EngineError(f"{self.connection.who} gives no log-probabilities: start it with --max-logprobs 20")
        await self._held(sampling)

    async def _held(self, sampling: Sampling) -> Held | None:
        """What the answer is held to."""
        wanted = sampling.grammar
        if wanted is None:
            return None
        if not self.features.holds:
            raise RequestError(
                "this model's server does not hold answers to a schema",
                param=wanted.param,
                code="unsupported_parameter",
            )
        if self.known.grammars is None:
            raise no_grammars(wanted.param)
        return await self.known.grammars.held(wanted, sampling.tenant)

    # -- one chain ----------------------------------------------------------------------------------------------------

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        """One chain; see the contract."""
        writing = Writing(self.model, prompt, sampling, transcript)
        try:
            held = await self._held(sampling)
            while (call := writing.next_call()) is not None:
                async with aclosing(self._called(writing, call, held, str(transcript.call))) as deltas:
                    async for delta in deltas:
                        if sampling.streamed:
                            yield delta
            if (last := writing.last()) is not None:
                yield last
        except EngineError:
            writing.ending, self._seen = "lost", float("-inf")
            raise
        finally:
            thought = Hidden(writing.thought())
            transcript.end(writing.ending, thought, writing.splitter.stopped, unseen=writing.unseen)

    async def _called(self, writing: Writing, call: Call, held: Held | None, name: str) -> AsyncGenerator[Delta]:
        """One call: what it writes, as it comes. All that has come is told to the transcript, however it ends."""
        sampling = writing.sampling
        asked, likely = self._asked(sampling, call, held), _likely(sampling, call)
        reader = self._reader(call.ids, call.limit, likely)
        written = call.ids[len(call.ids) - call.continued :]
        circles = None if self.features.continues or not call.watched else Circles(written)
        taking = _Taking(writing, call, reader, circles)
        number = f"{name}-{self._door}-{next(self._numbers)}"
        unseen = False
        """Tokens may be made that do not come."""
        try:
            # Where a call can be ended by its name, what it has made is known, so it is worth to wait for its answer.
            patience = END_SECONDS if self.features.aborts else 0.0
            async with self.connection.call(
                COMPLETIONS, asked, {"X-Request-Id": number}, patience=patience
            ) as exchange:
                response, unseen = exchange.response, True
                try:
                    if exchange.cancelled is not None:
                        raise exchange.cancelled
                    while not (reader.ended or writing.cut or call.reason):
                        # All are told before one is sent on, for who stops reading in between.
                        for delta in self._taken(taking, await self._part(response)):
                            yield delta
                finally:
                    if not reader.ended:
                        await self._last(taking, response, number)
                await self._counted(reader, response)
        except RequestError:
            if sampling.grammar is not None:
                raise unenforceable(sampling.grammar).error from None
            raise
        except (Lost, asyncio.CancelledError) as error:
            unseen = unseen or not isinstance(error, NotTaken) or error.sent
            raise
        finally:
            writing.unseen = writing.unseen or (unseen and not reader.ended)
            call.cached = reader.cached or 0
            self._end_of(writing, call, reader)

    def _end_of(self, writing: Writing, call: Call, reader: Reader) -> None:
        """Settles a call. What the server has cut short of itself is gone on with by another call."""
        if call.reason == "length" and reader.made < call.limit:
            call.reason = None
        writing.settle(call)

    def _asked(self, sampling: Sampling, call: Call, held: Held | None) -> dict[str, Any]:
        """A call as the server takes it. Raises `EngineError` where it cannot go on with what it is to go on with."""
        features, constrained = self.features, held is not None and call.phase == "answer"
        if constrained and call.continued and not features.continues:
            raise EngineError(
                f"{self.connection.who} cannot go on with an answer that is held to a schema: it was not started with "
                "--scheduler-cls ponder.engines.scheduling.scheduler"
            )
        if not features.aborts:
            call.every = min(call.every, UNSEEN)
        asked = body(self.model, features.served, sampling, call, held)
        return asked | continuing(call) if features.continues else asked

    def _reader(self, ids: list[int], limit: int, logprobs: int | None) -> Reader:
        return Reader(
            self.connection.who,
            self.features.served,
            ids,
            limit,
            vocabulary=self.model.vocabulary_size,
            logprobs=logprobs,
        )

    def _taken(self, taking: _Taking, data: bytes) -> list[Delta]:
        """What has come, told to the transcript; returns the visible text in it."""
        made, deltas = taking.reader.made, list[Delta]()
        try:
            for output in taking.reader.feed(data):
                if (delta := taking.take(output)) is not None:
                    deltas.append(delta)
        finally:
            if taking.reader.made > made:
                self._seen = now()
        return deltas

    async def _part(self, response: aiohttp.ClientResponse) -> bytes:
        """The next bytes of an answer. Raises `Lost` where there come none any more."""
        silent = now()
        while True:
            try:
                async with asyncio.timeout(SILENT_SECONDS):
                    data = await self.connection.part(response)
            except TimeoutError:
                if now() - max(silent, self._seen) > STUCK_SECONDS:
                    raise Lost(f"{self.connection.who} has sent nothing for {STUCK_SECONDS:.0f} s") from None
                await self.health()
                continue
            if not data:
                raise Lost(f"{self.connection.who} broke off its answer")
            return data

    async def _last(self, taking: _Taking, response: aiohttp.ClientResponse, number: str) -> None:
        """Tells what has come of a call that is given up; where the server can end it by its name, all it has made."""
        reader, taking.given_up = taking.reader, True
        with suppress(EngineError, TimeoutError, aiohttp.ClientError, OSError):
            while data := response.content.read_nowait():
                self._taken(taking, data)
            if self.features.aborts and not reader.ended and response.connection is not None:
                async with asyncio.timeout(END_SECONDS):
                    await self.connection.short(ABORT, {"request_ids": [f"cmpl-{number}-0"]})
                    while not reader.ended and (data := await self.connection.part(response)):
                        self._taken(taking, data)

    async def _counted(self, reader: Reader, response: aiohttp.ClientResponse) -> None:
        """Reads the counts behind the last token, and the end of the answer. The end of the chain is known by then, so
        it is not lost with a server that goes away now."""
        if not reader.ended:
            return
        with suppress(Lost, TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                while data := await self.connection.part(response):
                    for _ in reader.feed(data):
                        pass

    # -- what it says of itself ---------------------------------------------------------------------------------------

    async def health(self) -> None:
        """See `ponder.engines.replicas.replica.Replica`."""
        try:
            await self.connection.short("/health")
        except NotTaken as error:
            if error.answered:
                raise EngineError(f"{error.message}: its engine does not live") from None
            raise
        except RequestError as error:
            raise EngineError(f"{self.connection.who} does not say that it is well: {error.message}") from None

    async def load(self) -> Load:
        """See `ponder.engines.replicas.replica.Replica`."""
        try:
            told = await self.connection.short("/metrics")
        except RequestError as error:
            raise EngineError(f"{self.connection.who} tells no metrics: {error.message}") from None
        return load_of(told.decode(errors="replace"), self.connection.who)

    async def check(self) -> Checked | None:
        """Returns when the model makes tokens: it has just made some, or makes one now."""
        if self.connection.closed:
            raise self.was_closed()
        begun = now()
        if begun - self._seen < FRESH_SECONDS:
            return None
        ids = self.check_prompt()
        asked = {"model": self.features.served, "prompt": ids, "max_tokens": 1, **streamed()}
        reader = self._reader(ids, 1, None)
        try:
            async with (
                asyncio.timeout(CHECK_SECONDS),
                self.connection.call(COMPLETIONS, asked, {"X-Request-Id": f"check-{self._door}"}) as exchange,
            ):
                while not reader.ended and (data := await self.connection.part(exchange.response)):
                    for _ in reader.feed(data):
                        pass
                await self._counted(reader, exchange.response)
        except RequestError:
            raise EngineError(f"{self.connection.who} refuses a call for one token") from None
        except TimeoutError:
            if self._seen >= begun:
                return None
            raise self.silent() from None
        if not reader.made or reader.surplus:
            raise EngineError(f"{self.connection.who} made {reader.made} tokens where one was asked for")
        self._seen = now()
        return Checked(len(ids), reader.cached or 0, reader.made)

    async def close(self) -> None:
        """Ends all calls. The server goes on. Idempotent."""
        await self.connection.close()
        if self.owned is not None:
            self.owned.close()


@dataclass(slots=True)
class _Taking:
    """What becomes of the outputs of a call."""

    writing: Writing
    call: Call
    reader: Reader
    circles: Circles | None
    """Where chains that go in circles are found at this end."""
    given_up: bool = False
    """Nobody waits for its end any more."""

    def take(self, output: Output) -> Delta | None:
        """Tells the transcript the tokens of an output: no more than the call may have. Raises `EngineError` where
        there are more, `Lost` where the server has given up the call."""
        writing, call, ids = self.writing, self.call, output.ids
        if surplus := self.reader.surplus:
            ids = ids[: max(0, len(ids) - surplus)]
        if call.reason is not None:
            writing.surplus(ids, call)
            return None
        if surplus:
            writing.take(call, ids, output.logprobs, None)
            raise EngineError(f"{self.reader.who} sends more than the {call.limit} tokens it was asked for")
        if output.reason == "abort":
            delta = writing.take(call, ids, output.logprobs, None)
            if not (self.given_up or writing.cut):
                raise Lost(f"{self.reader.who} gave up on a request")
            return delta
        if output.reason is not None:
            if not self.reader.made:
                raise EngineError(f"{self.reader.who} ends a call without a token")
            call.reason, call.stop = output.reason, output.stop
        elif self.circles is not None and (closed := self.circles.closed_at(ids)) is not None:
            # What it has made behind that is of no use.
            call.reason = "repetition"
            delta = writing.take(call, ids[:closed], output.logprobs, None)
            writing.surplus(ids[closed:], call)
            return delta
        return writing.take(call, ids, output.logprobs, None)


def _likely(sampling: Sampling, call: Call) -> int | None:
    """How many log-probabilities are wanted beside the drawn token's; None where not even that is."""
    if call.phase == "answer" and sampling.logprobs is not None:
        return sampling.logprobs
    return 0 if sampling.likelihood else None
