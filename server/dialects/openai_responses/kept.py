"""What is kept of a request for a response: its input as items that have ids; and the same request behind the items of
an earlier conversation."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import TypeAdapter

from ponder.server.dialect import Item, Keeping, Reading
from ponder.server.dialects.customs import text_of
from ponder.server.dialects.openai_responses.items import Items, response_of
from ponder.server.dialects.openai_responses.reading import ours
from ponder.server.dialects.openai_responses.schema import (
    FunctionCall,
    FunctionCallOutput,
    InputItem,
    InputMessage,
    ItemReference,
    ReasoningItem,
    ResponsesRequest,
)
from ponder.server.dialects.openai_responses.writing import ResponsesWriter
from ponder.server.dialects.slips import Stray

KEPT = TypeAdapter[list[Any]](list[InputItem])
PREFIX = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
"""Of the ids that are made for items."""


def read(
    id: str,
    wanted: ResponsesRequest,
    strays: Sequence[Stray],
    earlier: Sequence[Item] = (),
    named: Mapping[str, Item] | None = None,
) -> Reading:
    """The request, behind the items of an earlier conversation. `id`: of the response; `named`: items of answers that
    the input only names, by their ids; None: they are yet to be looked for. Raises `RequestError`."""
    found = None if named is None else dict(zip(named, _read_again(named.values()), strict=True))
    request, names = ours(wanted, _read_again(earlier), found)
    given = () if isinstance(wanted.input, str) else wanted.input
    keeping = Keeping(
        id,
        wanted.store,
        bool(wanted.background),
        wanted.previous_response_id,
        [*earlier, *_kept(wanted, {item["id"] for item in earlier}, named or {})],
        partial(read, id, wanted, strays),
        {item.id: of for item in given if isinstance(item, ItemReference) and (of := response_of(item.id))},
    )
    return Reading(request, partial(ResponsesWriter, keeping, wanted, strays), names, keeping=keeping)


def _read_again(items: Collection[Item]) -> Items:
    """Items that were kept."""
    return KEPT.validate_python(list(items)) if items else ()


def _kept(wanted: ResponsesRequest, taken: set[str], named: Mapping[str, Item]) -> Sequence[Item]:
    """The input as it is kept. An id that a caller has given is kept, where no other item has it."""
    given = wanted.input
    if isinstance(given, str):
        given = [InputMessage(role="user", content=given)]
    items: list[Item] = []
    for item in given:
        kept = named.get(item.id) if isinstance(item, ItemReference) else _item(item)
        if kept is None:
            continue
        id = item.id
        if not id or id in taken:
            id = f"{PREFIX[kept['type']]}_{secrets.token_hex(24)}"
        taken.add(id)
        items.append({**kept, "id": id})
    return items


def _item(item: Any) -> dict[str, Any] | None:
    match item:
        case InputMessage():
            parts = item.content if isinstance(item.content, list) else [{"type": "text", "text": item.content}]
            content = [_part(part, item.role == "assistant") for part in parts]
            return {"type": "message", "status": "completed", "role": item.role, "content": content}
        case FunctionCall():
            told = {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
            return {"type": "function_call", "status": "completed", **told}
        case FunctionCallOutput():
            told = {"call_id": item.call_id, "output": item.output}
            return {"type": "function_call_output", "status": "completed", **told}
        case ReasoningItem():
            # What a caller shows of a thought in plain text is not read, and not kept.
            told = {"type": "reasoning", "summary": item.summary or []}
            return told | ({"encrypted_content": item.encrypted_content} if item.encrypted_content else {})
        case ItemReference() | _:
            return None


def _part(part: Mapping[str, Any], assistant: bool) -> Mapping[str, Any]:
    """A part of a message in the words of this API, whichever it came from."""
    text = text_of(part)
    if text is None or part.get("type") == "refusal":
        return part
    if assistant:
        return {"type": "output_text", "text": text, "annotations": []}
    return {"type": "input_text", "text": text}
