"""What goes into a model and what comes out: messages, prompts, hidden thoughts, candidates, scores, the answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, NoReturn, TypeVar

from ponder.compute.likelihood import Certainty, lowest_mean

T = TypeVar("T")

Role = Literal["system", "developer", "user", "assistant", "tool"]


class Hidden(Generic[T]):
    """A value nobody outside the engines and verifiers may read: a thought, or the ids of one.

    It has no text form, no JSON, no pickle and no equality by content, so it can pass through logs, traces and
    responses without leaking. Only `unseal` returns it; `tests/test_architecture.py` lists the files that may call
    that.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def unseal(self) -> T:
        """The value itself; for engines and verifiers."""
        return self._value

    def __repr__(self) -> str:
        return "Hidden(...)"

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        return "Hidden(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Hidden value cannot be pickled or copied")


def ends(texts: Iterable[Hidden[str]], characters: int) -> Hidden[str] | None:
    """The ends of hidden texts, one behind the other, of each so many characters at most; a text that is cut begins
    with a whole line, where there is one. None where nothing is left."""
    found: list[str] = []
    for hidden in texts:
        text = hidden.unseal().strip()
        end = text[max(0, len(text) - characters) :]
        if len(end) < len(text) and text[len(text) - len(end) - 1] != "\n":
            end = end.partition("\n")[2] or end
        found += [end] * bool(end)
    return Hidden("\n\n".join(found)) if found else None


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a message: a file as bytes, and its media type. As it comes in it may be anything; what an engine is
    given was decoded and written anew as a PNG of plain RGB (`ponder.server.images`)."""

    media_type: str
    data: bytes = field(repr=False)
    digest: str = ""
    """Equal for equal images of one tenant, and of no other: what a model made of one is found by it. Set where it was
    checked."""
    param: str = field(default="messages", compare=False)
    """The field of the request that has it, for a refusal."""


Images = tuple[tuple[int, Image], ...]
"""Images of a message, in order, each with the characters of the text that stand before it."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function the model wants called. `arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the caller offers. `parameters` is its JSON schema as JSON text, in the caller's order."""

    name: str
    description: str
    parameters: str
    strict: bool = False
    """Its calls are held to the schema, also where the model chooses whether it calls."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `content` may be hidden (a critique put back into a prompt); `thought` is an earlier chain of the
    model, shown to it again where its profile says so."""

    role: Role
    content: str | Hidden[str]
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    thought: Hidden[str] | None = None
    sealed: str | None = None
    """The thought as the caller was given it and has handed it back, not opened yet; several are joined by commas."""
    images: Images = ()
    """The images in `content`. Who reads texts alone reads `content` and passes these over."""

    @property
    def pieces(self) -> list[str | Image]:
        """Texts and images in the order in which the caller has put them; no text is empty."""
        text = self.content if isinstance(self.content, str) else self.content.unseal()
        found: list[str | Image] = []
        at = 0
        for place, image in self.images:
            found += [text[at:place]] * (place > at) + [image]
            at = place
        return found + [text[at:]] * (at < len(text))


def joined(parts: Iterable[str | Image]) -> tuple[str, Images]:
    """Texts and images, in order, as `content` and `images` of a message."""
    texts: list[str] = []
    images: list[tuple[int, Image]] = []
    at = 0
    for part in parts:
        if isinstance(part, Image):
            images.append((at, part))
        else:
            texts.append(part)
            at += len(part)
    return "".join(texts), tuple(images)


@dataclass(frozen=True, slots=True)
class Raw:
    """A text that a model is asked to go on with as it stands, without a chat template around it."""

    text: str | tuple[int, ...]
    """Or its token ids."""
    suffix: str = ""
    """What is to come behind what the model writes."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that a model is asked to go on with, or a raw text, which has no messages."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    effort: str | None = None
    """The caller's word for how much to think, for models whose template asks for one."""
    budget: int | None = None
    """Tokens that a thought may have, for models whose template tells them; what binds is the engine's limit."""
    raw: Raw | None = None
    parts: dict[Any, Any] = field(default_factory=dict[Any, Any], compare=False, repr=False)
    """What models have made of parts of it, under keys of their own; shared with prompts that continue it."""
    read: dict[Any, Any] = field(default_factory=dict[Any, Any], init=False, compare=False, repr=False)
    """What they have made of the whole. It goes with the prompt: models keep nothing of it elsewhere."""

    @property
    def images(self) -> tuple[Image, ...]:
        """All its images, in order."""
        return tuple(image for message in self.messages for _, image in message.images)

    @property
    def size(self) -> int:
        """Characters of its texts, hidden ones too; for each message, call, tool and image about as many more as
        reading it takes."""
        if "size" not in self.read:
            self.read["size"] = sum(map(_size, self.messages)) + sum(
                EACH + len(tool.description) + len(tool.parameters) for tool in self.tools
            )
            if self.raw is not None:
                self.read["size"] += len(self.raw.text) + len(self.raw.suffix)
        return self.read["size"]

    def then(self, *messages: Message) -> Prompt:
        """The same conversation with more turns at its end."""
        return replace(self, messages=self.messages + messages)


def without_thoughts(prompt: Prompt) -> Prompt:
    """The same conversation without the model's earlier thoughts."""
    return replace(
        prompt, messages=tuple(replace(one, thought=None) if one.thought else one for one in prompt.messages)
    )


def _size(message: Message) -> int:
    content = message.content if isinstance(message.content, str) else message.content.unseal()
    thought = "" if message.thought is None else message.thought.unseal()
    calls = sum(EACH + len(call.arguments) for call in message.tool_calls)
    return EACH + len(content) + len(thought) + calls + IMAGE_SIZE * len(message.images)


EACH = 64
"""Characters of text that take as long to be read as what is around each."""
IMAGE_SIZE = 1 << 15
"""The same for an image."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One visible token: its text, its bytes, its natural-log probability, and the likeliest others at its place."""

    text: str
    bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


Ending = Literal["finished", "stop", "full", "length", "step", "aborted", "lost"]
"""How a chain ended: the model ended its turn · a stop string was met · the answer has used up all it may have ·
a share of tokens was used up · a step delimiter was reached · the stream was closed from outside · the model failed or
went away, and nobody saw an end. The first three are ends for good; engines never say "full"."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One chain of the model, finished or half-written; immutable, so that many may continue the same one.

    `hidden` and `visible` count the tokens the model generated for this chain (not those it inherited from `parent`).
    `ids` are all tokens after the prompt, those put in by force included: what an engine needs to continue the chain.
    """

    number: int
    prompt: Prompt
    ids: Hidden[tuple[int, ...]]
    thought: Hidden[str]
    text: str
    hidden: int
    visible: int
    thinking: bool
    """Still inside its thought: no visible token yet."""
    ending: Ending
    forced: bool = False
    """The thought was closed by force at the end of its share."""
    circled: bool = False
    """The engine ended it because it went in circles: its answer may join others' in a vote and stands for none."""
    parent: int | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    stop: str | None = None
    """The stop string that was met, as far as its engine tells."""
    likelihood: Hidden[tuple[float, ...]] = field(default_factory=lambda: Hidden(()))
    """Natural-log probability of each of `ids` (0.0 for forced ones); empty unless `Sampling.likelihood` was set."""

    def certainty(self, window: int) -> Certainty | None:
        """How certain the model was of it, with windows of so many tokens; None where it has no token of its own or was
        drawn without its likelihood."""
        likelihood = self.likelihood.unseal()
        return Certainty(sum(likelihood), lowest_mean(likelihood, window)) if likelihood else None

    @property
    def complete(self) -> bool:
        """The answer stands as the model wanted it: it ended its turn or met a stop string."""
        return self.ending in ("finished", "stop")

    @property
    def over(self) -> bool:
        """Nothing more can be written: it is complete, or cut at the limit of all answers."""
        return self.complete or self.ending == "full"

    @property
    def same_place(self) -> int:
        """Equal for chains that stand at the same tokens of the same prompt."""
        return hash((id(self.prompt), self.ids.unseal()))

    @property
    def length(self) -> int:
        """Tokens behind the prompt: what it takes of the model's context."""
        return len(self.ids.unseal())

    @property
    def tokens(self) -> int:
        """Everything the model generated for this chain."""
        return self.hidden + self.visible


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What a call has written, its chain from the beginning on, kept where the operator wants texts."""

    prompt: Prompt
    thought: Hidden[str]
    answer: Hidden[str]
    forced: bool
    """As of a `Candidate`."""


@dataclass(frozen=True, slots=True)
class Score:
    """How good a verifier finds a candidate, in [0, 1]. `steps` are its scores step by step, where it has them."""

    value: float
    steps: tuple[float, ...] = ()
    truncated: bool = False
    """Only the end of an over-long chain was judged."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The visible answer that the caller is sent. It has no field for thoughts."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
