"""A model in vLLM, in this process: `AsyncLLM` behind the contract of `ponder.compute.engine.Engine`.

Token ids go in and token ids come out; which calls a chain takes, and what of it is hidden, is decided in `writing`.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import importlib
import itertools
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from ponder.compute.engine import Checked, Delta, Sampling
from ponder.compute.errors import EngineError, Lost, RequestError, Unavailable
from ponder.compute.slots import Slots
from ponder.compute.text import Hidden, Prompt
from ponder.compute.transcript import Transcript
from ponder.engines.adapters import Adapter, find_adapters, load, lora_arguments
from ponder.engines.held_grammars import HeldGrammars, unenforceable, vocabulary_of
from ponder.engines.launch import (
    GRAMMAR_SECONDS,
    SHUTDOWN_SECONDS,
    EngineOptions,
    arguments,
    dead,
    forget,
    launch,
    places,
    read_config,
    read_generation,
    settle_environment,
    tokenizer_of,
)
from ponder.engines.model import Model
from ponder.engines.model_engine import CHECK_SECONDS, FRESH_SECONDS, ModelEngine
from ponder.engines.profiles import Profile
from ponder.engines.proving import fitting
from ponder.engines.quarantine import Quarantine
from ponder.engines.supervised import SupervisedEngine
from ponder.engines.supervisor import Supervisor
from ponder.engines.tools import DEFAULT
from ponder.engines.vllm_calls import VllmCalls, take
from ponder.engines.vllm_images import Media, VllmImages
from ponder.engines.vllm_process import Seen, VllmProcess
from ponder.engines.writing import Writing


async def start(
    path: str, *, name: str, profile: Profile | None, options: EngineOptions, adapters: Mapping[str, str] | None = None
) -> VllmEngine:
    """Loads a model, from a folder or by its hub id, and its LoRA adapters by name. Raises `EngineError` in plain words
    where it cannot."""
    settle_environment()
    config = await asyncio.to_thread(read_config, path)
    generation = await asyncio.to_thread(read_generation, path)
    found = await asyncio.to_thread(find_adapters, adapters or {})
    given = lora_arguments(found) | arguments(path, options) | {"served_model_name": name}
    # What is refused is refused before the weights are loaded.
    profile = await asyncio.to_thread(proven, given, name, path, profile, config, generation)
    began = time.monotonic()
    llm = launch(given)
    try:
        tokenizer: Any = llm.get_tokenizer()
        slots = Slots(places(llm), profile.typical_chain[0])
        engine = VllmEngine(
            llm,
            tokenizer,
            profile,
            name,
            repetition_in_answers=options.repetition_in_answers,
            grammar_seconds=options.grammar_seconds,
            slots=slots,
            images=VllmImages.of(llm.model_config),
        )
        for adapter, lora in zip(found, await _loaded(llm, found, name), strict=True):
            engine.adapters.append(engine.adapted(adapter.name, lora))

        async def taken(llm: Any) -> None:
            loaded = await _loaded(llm, found, name)
            engine.llm = llm
            for adapted, lora in zip(engine.adapters, loaded, strict=True):
                adapted.llm, adapted.lora = llm, lora

        engine.process = VllmProcess(name, given, llm, time.monotonic() - began, engine.seen, taken)
        with suppress(RequestError, Unavailable):
            await engine.grammars.begin(ready=True)
        return engine
    except BaseException:
        llm.shutdown()
        raise
    finally:
        del llm  # see `launch`


def proven(
    given: dict[str, Any],
    name: str,
    path: str,
    profile: Profile | None,
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
) -> Profile:
    """The profile of a model, found by its files where None is given, and shown to fit its tokenizer and its template.
    `given` are vLLM's arguments. Raises `EngineError` where it does not fit."""
    tokenizer = tokenizer_of(given)
    return fitting(tokenizer, name, path, profile, config, generation, vocabulary_size=len(tokenizer))


@asynccontextmanager
async def supervised(engine: VllmEngine) -> AsyncGenerator[Sequence[SupervisedEngine]]:
    """A model that `start` has made and its adapters, in front of an engine that is started again when it goes away,
    within the block."""
    process = engine.process
    if process is None:
        raise TypeError("only a model that was started here can be started again")
    supervisor, quarantine = Supervisor(process, engine.check, took=process.took), Quarantine()
    async with supervisor.watching():
        yield [SupervisedEngine(one, supervisor, quarantine) for one in (engine, *engine.adapters)]


async def _loaded(llm: Any, adapters: Sequence[Adapter], base: str) -> list[Any]:
    return [await load(llm, adapter, number, base) for number, adapter in enumerate(adapters, 1)]


class VllmEngine(ModelEngine):
    """One model in vLLM; fulfils `ponder.compute.engine.Engine`."""

    def __init__(
        self,
        llm: Any,
        tokenizer: Any,
        profile: Profile,
        name: str,
        *,
        repetition_in_answers: bool = False,
        grammar_seconds: float = GRAMMAR_SECONDS,
        slots: Slots | None = None,
        images: VllmImages | None = None,
    ) -> None:
        self.llm = llm
        self._inputs: Any = importlib.import_module("vllm.inputs.engine")
        self._images = images
        self._refusal: type[Exception] = importlib.import_module("vllm.exceptions").VLLMClientError
        self.model = Model(
            tokenizer,
            profile,
            name,
            context=int(llm.model_config.max_model_len),
            vocabulary_size=int(llm.model_config.get_vocab_size()),
            repetition_in_answers=repetition_in_answers,
            images=self._images,
        )
        self.calls = VllmCalls(self.model)
        self.grammars = HeldGrammars(self.model.card.tools or DEFAULT, grammar_seconds, lambda: vocabulary_of(self.llm))
        self.slots = slots
        self.adapters: list[VllmEngine] = []
        """The model with each of its LoRA adapters; they end with it."""
        self.process: VllmProcess | None = None
        """What can be started again, where `start` has made this."""
        self._by_adapter: dict[str, Any] = {}
        self._numbers = itertools.count()
        self.seen = Seen()
        self._closed = False

    def adapted(self, name: str, lora: Any) -> VllmEngine:
        """The model with an adapter of vLLM's, under a name of its own. It may be closed alone, too."""
        made = copy.copy(self)
        made.model = self.model.named(name)
        made.adapters = []
        made.lora = lora
        return made

    @property
    def lora(self) -> Any:
        """vLLM's adapter that every call is made with; None for the model alone."""
        return self._by_adapter.get("lora_request")

    @lora.setter
    def lora(self, lora: Any) -> None:
        self._by_adapter = {"lora_request": lora}

    async def accept(self, sampling: Sampling) -> None:
        """Raises `RequestError` for wishes that vLLM would refuse when the answer begins; see the contract."""
        self.check_bias(sampling)
        if sampling.grammar is not None:
            await self.grammars.held(sampling.grammar, sampling.tenant)

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        """One chain; see the contract."""
        writing = Writing(self.model, prompt, sampling, transcript)
        name, seen = str(transcript.call), self.seen
        try:
            grammar = sampling.grammar and await self.grammars.held(sampling.grammar, sampling.tenant)
            while (call := writing.next_call()) is not None:
                llm = self._open()
                params = self.calls.parameters(sampling, call, grammar)
                stream = await self._submit(call.ids, params, sampling, name, writing.media)
                finished = False
                seen.calls[id(call)] = call
                try:
                    while not finished:
                        out = stream.get_nowait() or await stream.get()
                        finished = out.finished
                        seen.last = time.monotonic()
                        delta = take(writing, call, out)
                        if delta is not None and sampling.streamed:
                            yield delta
                        if writing.cut:
                            break
                    if finished and not writing.cut and call.reason == "abort":
                        raise Lost(f"model {self.card.name}: the engine gave up on a request")
                finally:
                    del seen.calls[id(call)]
                    if not finished:
                        # The state of the request goes at once; what was made by then is in the last output.
                        await llm.abort(stream.request_id, internal=True)
                        with suppress(*dead()):  # There is no more to come, and what ends this stays the reason.
                            if (out := stream.get_nowait()) is not None:
                                take(writing, call, out)
                    writing.settle(call)
            if (last := writing.last()) is not None:
                yield last
        except dead() as error:
            writing.ending = "lost"
            raise Lost(f"model {self.card.name}: the engine is dead") from error
        except EngineError:
            writing.ending = "lost"
            raise
        finally:
            transcript.end(writing.ending, Hidden(writing.thought()), writing.splitter.stopped)

    def _open(self) -> Any:
        """vLLM's engine. Raises `Unavailable` where it was closed."""
        if self._closed:
            raise self.was_closed()
        return self.llm

    async def _submit(
        self, ids: list[int], params: Any, sampling: Sampling, name: str, media: Media | None = None
    ) -> Any:
        """Begins a call; returns vLLM's collector of its outputs. vLLM's logs and traces have it under `name`. `media`:
        the images in the prompt."""
        self._open()
        number = f"{name}-{next(self._numbers)}"
        tensors = None if media is None else await self._tensors(media)
        try:
            return await self.llm.add_request(
                number,
                self._inputs.tokens_input(ids, cache_salt=sampling.tenant)
                if media is None or tensors is None
                else self._input_with(ids, media, tensors, sampling.tenant),
                params,
                **self._by_adapter,
            )
        except (ValueError, self._refusal):
            # vLLM's words quote the request.
            if sampling.grammar is not None:
                raise unenforceable(sampling.grammar).error from None
            raise RequestError("the engine refuses the sampling parameters of this request") from None
        except BaseException:
            await self.llm.abort(number)
            raise

    async def _tensors(self, media: Media) -> Any:
        """Those of the images of a prompt. In a thread: they may have to be made again, or to wait for others."""
        if self._images is None:
            raise TypeError("a model without images has no prompt with some")
        return await asyncio.to_thread(self._images.items, media)

    def _input_with(self, ids: list[int], media: Media, tensors: Any, tenant: str | None) -> Any:
        """A prompt with images, as vLLM takes it. What the engine's process has seen already is not sent again: vLLM's
        own front end keeps account of that, in the order in which calls are made."""
        cache: Any = self.llm.renderer.mm_processor_cache
        if cache is not None:
            for n, name in enumerate(media.names):
                tensors["image"][n] = cache.get_and_update_item((tensors["image"][n], []), name)[0]
        return self._inputs.mm_input(ids, tensors, {"image": media.names}, {"image": media.places}, cache_salt=tenant)

    async def check(self) -> Checked | None:
        """Returns when the model makes tokens: it has just made some, or makes one now."""
        if self._closed:
            raise self.was_closed()
        if self.llm.errored:
            raise EngineError(f"model {self.card.name}: the engine is dead")
        begun = time.monotonic()
        if begun - self.seen.last < FRESH_SECONDS:
            return None
        params = self.calls.for_one_token()
        ids = self.check_prompt()
        stream: Any = None
        out: Any = None
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                stream = await self._submit(ids, params, Sampling(0, 1), "check")
                out = await stream.get()
                self.seen.last = time.monotonic()
        except TimeoutError:
            if self.seen.last < begun:
                raise self.silent() from None
        except dead() as error:
            raise EngineError(f"model {self.card.name}: the engine is dead") from error
        finally:
            if stream is not None and out is None:
                await self.llm.abort(stream.request_id, internal=True)
        if out is None:
            return None
        return Checked(len(ids), out.num_cached_tokens or 0, len(out.outputs[0].token_ids))

    async def close(self) -> None:
        """Frees the model. Idempotent."""
        if not self._closed:
            self._closed = True
            for adapted in self.adapters:
                await adapted.close()
            if not self._by_adapter:
                self.grammars.close()
                self.llm.shutdown(timeout=SHUTDOWN_SECONDS)
                forget(self.llm)
                if self.process is not None:
                    self.process.let_go()
            # Its finalizer, at the exit of the interpreter, would find vLLM half gone.
            del self.llm
            if self._by_adapter:
                return
            gc.unfreeze()
            gc.collect()
