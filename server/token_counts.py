"""How many tokens the prompt of a request has, for callers who want to know that and no answer.

A dialect that has words for the question reads it as the request it is about, and says what writes the number
(`Reading.count`). The prompt is planned and rendered as for the answer, so the number is the one in the usage of the
answer that follows. Nothing is asked of the model, no place is taken, and nothing is billed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ponder.compute.errors import RequestError
from ponder.compute.text import Tool
from ponder.server.dialect import Reading
from ponder.server.plan import ResolvedRequest
from ponder.server.request import Request, ToolChoice


def of_the_prompt(request: Request) -> Request:
    """The request without what changes no prompt and takes work: grammars of its answer and its calls."""
    tools = tuple(Tool(one.name, one.description, one.parameters) for one in request.tools)
    return replace(request, document=None, tools=tools, tool_choice=ToolChoice())


class TokenCountResponse:
    """Plans a request that was read, and tells the tokens of its prompt."""

    def __init__(
        self, reading: Reading, write: Callable[[int], bytes], plan: Callable[[], Awaitable[ResolvedRequest]]
    ) -> None:
        self._reading, self._write, self._plan = reading, write, plan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises what the plan does, in the dialect's words."""
        try:
            resolved = await self._plan()
        except RequestError as error:
            raise self._reading.renamed(error) from None
        answer = Response(self._write(resolved.told_prompt), media_type="application/json")
        await answer(scope, receive, send)
