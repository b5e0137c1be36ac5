"""How much a request may think: what it wishes, under the ceiling of its model, key and context."""

from __future__ import annotations

from ponder.compute.chains import CLOSING
from ponder.compute.engine import LONG, Engine, ReadsWishes, read_beside, tokens
from ponder.compute.errors import RequestError
from ponder.compute.text import Prompt
from ponder.server.auth.keys import Key
from ponder.server.beside import turn
from ponder.server.cost import MaxCost
from ponder.server.registry import ServedModel
from ponder.server.request import AUTO, Request, ThinkingWish
from ponder.server.settings import EFFORT, ModelSettings, Settings


def wished(wish: ThinkingWish, settings: Settings) -> int | None:
    """Hidden tokens a request asks for; None where it names no number. Raises `RequestError`."""
    if wish.tokens is not None or wish.effort is None:
        return wish.tokens
    if wish.effort not in settings.effort:
        raise RequestError(f"thinking should be one of {', '.join(settings.effort)}", param="thinking")
    return settings.effort[wish.effort]


def known_effort(effort: str, settings: Settings) -> str:
    """The word for an effort that models know: it, or of a word that the operator made the one that is nearest in
    tokens."""
    if effort in EFFORT:
        return effort
    tokens = settings.effort[effort]
    return min(EFFORT, key=lambda word: abs(settings.effort[word] - tokens))


async def ceiling(
    request: Request,
    wished: int | None,
    served: ServedModel,
    prompt: Prompt,
    key: Key,
    cost: MaxCost | None = None,
    *,
    one: bool,
) -> tuple[int, int, int | None]:
    """(tokens of the prompt, ceiling of hidden tokens, what is asked for before the ceiling; None is all of it).

    The context bounds a chain. So it bounds the total where `one` chain spends all of it, and not that of many. What
    `cost` pays for may be less: here it matters where it is nothing, because then the model is asked in another way.
    """
    own, card = served.settings, served.engine.card
    default = own.thinking_budget
    asked = wished
    if asked is None:
        asked = AUTO if default in (None, "auto") or (request.thinking.on and default == 0) else int(default)
    length = await length_of(served.engine, prompt, key, asked != 0)
    if wished is None and not request.thinking.on and isinstance(served.engine, ReadsWishes):
        # Where no field says anything, the conversation may.
        said = served.engine.asks_to_think(prompt)
        if said is not None and said != (asked != 0):
            asked = AUTO if said else 0
            length = await length_of(served.engine, prompt, key, said)
    caps = [own.max_thinking_budget, key.highest_budget]
    room = card.context - length - CLOSING
    most = request.total_tokens
    if most is not None:
        caps.append(most - _kept(request, own, min(room, most)))
    if one:
        caps.append(room - _kept(request, own, room if most is None else min(room, most)))
    most_thinking = max(0, min(c for c in caps if c is not None))
    if asked != 0 and (most_thinking == 0 or (cost is not None and cost.thinking(length) == 0)):
        length = max(length, await length_of(served.engine, prompt, key, False))
    return length, most_thinking, None if asked == AUTO else asked


async def length_of(engine: Engine, prompt: Prompt, key: Key, thinking: bool) -> int:
    """Tokens of a prompt. Raises `RequestError` where they leave the context no room for an answer."""
    if prompt.size >= LONG:
        async with turn(key.name):
            await read_beside(engine, prompt, thinking=thinking)
    length = tokens(engine, prompt, thinking=thinking)
    if length + CLOSING >= engine.card.context:
        raise RequestError(
            # In the words of OpenAI's API, by which clients know the error.
            f"This model's maximum context length is {engine.card.context} tokens. However, the prompt has at least "
            f"{length} tokens, and the answer needs some. Please reduce the length of the prompt.",
            param="messages" if prompt.raw is None else "raw",
            code="context_length_exceeded",
        )
    return length


def _kept(request: Request, own: ModelSettings, space: int) -> int:
    """Tokens kept back for the answer, of `space` for thoughts and answer: of `total_tokens` a quarter at most,
    else a half, so that a generous limit of the answer's does not switch the thinking off."""
    part = 2 if request.total_tokens is None else 4
    return min(request.answer_tokens or own.answer_tokens, max(1, space // part))


def allowance(request: Request, own: ModelSettings, room: int, thinking: int) -> tuple[int, int | None]:
    """(visible tokens at most, hidden and visible together at most or None)."""
    most = request.total_tokens
    answer = request.answer_tokens or most or own.answer_tokens
    space = room if most is None else min(room, most)
    kept = _kept(request, own, space)
    return max(1, min(answer, space, max(kept, room - thinking))), most
