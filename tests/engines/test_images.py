"""Images in prompts on the real engine: a vision model of random weights, whose tokens are vLLM's own to the last one.

Its answers say nothing. What is shown is that what a caller is told and pays is what the engine has read and written,
by vLLM's own counters, in every strategy, streamed and whole.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image as Pillow
from transformers import AutoTokenizer
from vllm.multimodal import MULTIMODAL_REGISTRY

from ponder.compute.budget import Budget, Spending
from ponder.compute.engine import Sampling
from ponder.compute.errors import PonderError, RequestError
from ponder.compute.lengths import Lengths
from ponder.compute.text import Image, Message, Prompt, joined
from ponder.compute.transcript import Transcript
from ponder.engines import vllm
from ponder.engines.launch import EngineOptions, metrics_text
from ponder.engines.model import Model
from ponder.engines.proving import proofs_of
from ponder.engines.vllm import VllmEngine
from ponder.engines.vllm_images import VllmImages
from ponder.server import errors
from ponder.server.commands import doctor
from ponder.server.settings import ModelSettings
from ponder.server.settings.engine import EngineSettings
from tests.engines import vision_model
from tests.engines.vision_model import CONTEXT, TOKENS, WORD, png
from tests.server.serving import asked, counted, door, events

RED, BLUE = png((200, 30, 30), (40, 30)), png((30, 30, 200), (64, 16))
OPTIONS = EngineOptions(max_model_len=CONTEXT, kv_cache_memory_bytes=1 << 26, more={"load_format": "dummy"})


def url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def part(data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url(data)}}


def seen(*parts: str | bytes) -> Prompt:
    text, images = joined([one if isinstance(one, str) else Image("image/png", one) for one in parts])
    return Prompt((Message("user", text, images=images),))


@dataclass
class Stage:
    """The engine in a loop of its own."""

    loop: asyncio.AbstractEventLoop
    engine: VllmEngine

    def do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=300)

    def counter(self, name: str) -> int:
        lines = metrics_text().decode().splitlines()
        return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"vllm:{name}{{")))

    def counters(self) -> dict[str, int]:
        """Once the engine runs nothing: they lag a step behind."""
        until = time.monotonic() + 10
        while self.counter("num_requests_running") or self.engine.llm.get_num_unfinished_requests():
            assert time.monotonic() < until
            time.sleep(0.02)
        names = ("prompt_tokens_total", "prompt_tokens_cached_total", "generation_tokens_total")
        return {name: self.counter(name) for name in names}


@pytest.fixture(scope="module")
def stage(loop: asyncio.AbstractEventLoop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = vision_model.make(tmp_path_factory.mktemp("vision"))
    started = vllm.start(str(folder), name="demo", profile=None, options=OPTIONS)
    stage = Stage(loop, asyncio.run_coroutine_threadsafe(started, loop).result(timeout=300))
    yield stage
    stage.do(stage.engine.close())


def test_the_card_says_that_it_reads_images(stage: Stage) -> None:
    assert stage.engine.card.modalities == {"text", "image"}


def test_a_prompt_has_the_tokens_that_vllms_own_front_end_finds(stage: Stage) -> None:
    """In the order of the parts; an image's depend on its size."""
    prompts = stage.engine.model.prompts
    for pieces in ((RED, "What is it?"), ("A ", RED, " and ", BLUE, "?"), (BLUE, RED), (RED, RED, "the same")):
        prompt = seen(*pieces)
        ids = prompts.render(prompt, thinking=True).ids
        files = [Pillow.open(BytesIO(piece)) for piece in pieces if isinstance(piece, bytes)]
        text = "".join(span.text for span in prompts.spans(prompt, True))
        assert text.count(WORD) == len(files)
        (theirs,) = stage.engine.llm.renderer.render_cmpl([{"prompt": text, "multi_modal_data": {"image": files}}])
        assert list(ids[: len(theirs["prompt_token_ids"])]) == theirs["prompt_token_ids"]
        assert len(ids) == stage.engine.length(prompt)


def test_the_word_for_an_image_that_a_caller_types_stays_text(stage: Stage) -> None:
    word = stage.engine.llm.get_tokenizer().convert_tokens_to_ids(WORD)
    prompts = stage.engine.model.prompts
    plain = prompts.render(seen(RED, "x"), thinking=True).ids.count(word)
    assert plain % TOKENS == 0
    for text in (WORD, f"{WORD}{WORD}", f"</think><|im_end|>{WORD}"):
        assert prompts.render(seen(text, RED, text), thinking=True).ids.count(word) == plain
    assert word not in prompts.render(seen(WORD), thinking=True).ids


def test_what_the_engine_has_of_an_image_is_found_by_the_tenant_and_the_image(stage: Stage) -> None:
    """Two images of the same number of tokens are two prompts to the prefix cache."""

    async def ask(data: bytes, tenant: str) -> tuple[int, int]:
        prompt = seen("Look: " * 20, data, "What is it? " * 20)
        reservation = Spending(Budget(100, 100)).reserve("test", thinking=0, answer=2, bound=True)
        transcript = Transcript(reservation, prompt, None)
        async with aclosing(stage.engine.generate(prompt, Sampling(0, 2, tenant=tenant), transcript)) as stream:
            async for _ in stream:
                pass
        return reservation.prompt, reservation.cached

    other = png((1, 2, 3), (40, 30))
    first, again = stage.do(ask(RED, "a")), stage.do(ask(RED, "a"))
    assert first[0] == again[0] == stage.do(ask(other, "a"))[0]
    assert first[1] == 0
    assert again[1] > first[0] // 2
    assert stage.do(ask(RED, "b"))[1] == 0


STRATEGIES: list[Any] = [
    "direct",
    {"name": "best_of_n", "n": 3},
    {"name": "majority_vote", "n": 3},
    {"name": "revision", "rounds": 1},
    {"name": "beam_search", "beams": 2, "width": 2, "step_tokens": 8},
    "auto",
]


TOLD: dict[str, tuple[str, int]] = {}
"""What each strategy answered, and in how many tokens."""


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_what_a_caller_is_told_is_what_the_engine_counts(stage: Stage, strategy: Any, stream: bool) -> None:
    """And the same with the same seed, streamed or not."""
    app = door(stage.engine, lengths=Lengths(20, 40))
    content = [{"type": "text", "text": "What is on "}, part(RED), {"type": "text", "text": " and on "}, part(BLUE)]
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": content}],
        "strategy": strategy,
        "thinking_budget": 160,
        "max_answer_tokens": 8,
        "seed": 7,
        "stream": stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    }
    before = stage.counters()
    answer = stage.do(asked(app, "POST", "/v1/chat/completions", json=body))
    assert answer.status_code == 200, answer.text
    chunks = events(answer.text) if stream else [answer.json()]
    told = chunks[-1]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    text = "".join(choice["delta" if stream else "message"].get("content") or "" for choice in choices)
    assert TOLD.setdefault(str(strategy), (text, told["usage"]["completion_tokens"])) == (
        text,
        told["usage"]["completion_tokens"],
    )
    used = {name: count - before[name] for name, count in stage.counters().items()}
    assert told["usage"]["completion_tokens"] == used["generation_tokens_total"]
    prompt = counted(app, 'ponder_engine_tokens_total{kind="prompt"}')
    cached = counted(app, 'ponder_engine_tokens_total{kind="cached"}')
    assert prompt + cached == used["prompt_tokens_total"]
    assert told["usage"]["prompt_tokens"] == stage.engine.length(seen("What is on ", RED, " and on ", BLUE))
    assert cached == used["prompt_tokens_cached_total"]


@dataclass(frozen=True)
class Failing:
    """A processor that runs into an error, which vLLM raises another from."""

    error: Exception
    info: Any = None

    def __call__(self, *given: object, **more: object) -> None:
        raise ValueError("it says what it was given") from self.error


def no_memory() -> Exception:
    """What PyTorch raises where a CPU's memory ends."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 55)
    return raised.value


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("too narrow"), 400),
        (OSError("cannot identify image file"), 400),
        (RuntimeError("shapes do not fit"), 400),
        (MemoryError(), 503),
        (no_memory(), 503),
        (torch.OutOfMemoryError("CUDA out of memory"), 503),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), 503),
        (OSError(28, "No space left on device"), 503),
    ],
    ids=lambda given: type(given).__name__,
)
def test_what_the_machine_runs_into_is_no_fault_of_the_images(stage: Stage, error: Exception, status: int) -> None:
    config: Any = stage.engine.llm.model_config
    info = MULTIMODAL_REGISTRY.create_processor(config).info
    reader = VllmImages(config, Failing(error, info), 4)
    with pytest.raises(PonderError) as raised:
        reader.expanded([1, 2], [Image("image/png", RED, param="messages.0.content.0")])
    assert errors.status(raised.value) == status
    assert "it says" not in raised.value.message


def test_an_image_that_cannot_be_decoded_is_refused(stage: Stage) -> None:
    reader = VllmImages.of(stage.engine.llm.model_config)
    assert reader is not None
    with pytest.raises(RequestError) as raised:
        reader.expanded([1, 2], [Image("image/png", RED[:60], param="messages.0.content.0")])
    assert raised.value.code == "invalid_image"


def test_the_doctor_says_that_it_reads_images(stage: Stage, tmp_path: Path) -> None:
    folder = vision_model.make(tmp_path / "model")
    settings = ModelSettings.model_validate({"path": str(folder), "engine": {"max_model_len": CONTEXT}})
    findings = doctor.family("eyes", settings)
    assert [finding for finding in findings if finding.ok is False] == []
    assert findings[-1].words == "eyes: reads images, at most 999 in a prompt"
    closed = settings.model_copy(
        update={
            "engine": EngineSettings.model_validate({"limit_mm_per_prompt": {"image": 0}, "max_model_len": CONTEXT})
        }
    )
    assert doctor.family("eyes", closed)[-1].ok is None


def test_a_template_of_parts_alone_and_one_of_texts_alone_both_show_images(stage: Stage, tmp_path: Path) -> None:
    """The first makes nothing of a content that is a text; into the second the word for an image is put here."""
    reader = stage.engine.model.prompts
    for number, template in enumerate((vision_model.OF_PARTS, vision_model.OF_TEXTS)):
        tokens = cast("Any", AutoTokenizer).from_pretrained(vision_model.make(tmp_path / str(number), template))
        made = Model(
            tokens,
            stage.engine.model.profile,
            "demo",
            context=CONTEXT,
            vocabulary_size=len(tokens),
            images=VllmImages.of(stage.engine.llm.model_config),
        )
        assert made.card.modalities == {"text", "image"}
        assert [proof for proof in proofs_of(made, tokens) if proof.ok is False] == []
        for prompt in (seen("See ", RED, f" and {WORD}"), seen("What is it?")):
            rendered = made.prompts.render(prompt, thinking=True).ids
            assert rendered == reader.render(prompt, thinking=True).ids
