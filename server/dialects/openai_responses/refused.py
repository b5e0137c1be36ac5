"""What the Responses API of others has and this server does not: fields, hosted tools and their items, each refused by
its name."""

from __future__ import annotations

from typing import Any, cast

from ponder.compute.errors import RequestError
from ponder.server.dialects.refused_sampling import TALK_INSTEAD, TALK_OFF
from ponder.server.dialects.slips import Refused

REFUSED = Refused(
    {
        **TALK_INSTEAD,
        "messages": "use input",
        "prompt": "templates of prompts are kept nowhere; write the text into input or instructions",
        "conversation": "conversations are kept nowhere; use previous_response_id, or send the items in input",
        "context_management": "nothing is left out of a conversation; send the items that the model is to read",
        "moderation": "it is not offered",
        "background_options": "it is not offered",
        "max_tokens": "use max_output_tokens",
        "max_completion_tokens": "use max_output_tokens",
        "n": "a response has one answer",
        "response_format": "use text.format",
        "logprobs": 'use include with "message.output_text.logprobs"',
        "guided_json": "use text.format with a JSON schema",
        "guided_choice": "use text.format with a schema that has an enum",
        "guided_regex": "use text.format with a schema that has a pattern",
        "guided_grammar": "use text.format with a JSON schema",
        "structured_outputs": "use text.format with a JSON schema",
        "prompt_logprobs": "there are no log-probabilities of a prompt",
        "documents": "put them into input",
        "previous_input_messages": "send them in input",
    },
    {
        **TALK_OFF,
        "n": (1,),
        "logprobs": (False,),
        "max_tokens": (-1,),
        "max_completion_tokens": (-1,),
    },
)
TOOLS = frozenset({"function"})
"""Kinds of tools that are offered."""
HOSTED = frozenset(
    {"web_search", "web_search_preview", "file_search", "computer", "computer_use", "computer_use_preview"}
    | {"code_interpreter", "image_generation", "mcp", "local_shell", "shell", "apply_patch", "tool_search"}
    | {"custom", "namespace", "programmatic_tool_calling"}
)
"""Kinds of tools that are not."""
ITEMS = frozenset(
    {"file_search_call", "web_search_call", "computer_call", "computer_call_output", "code_interpreter_call"}
    | {"image_generation_call", "local_shell_call", "local_shell_call_output", "shell_call", "shell_call_output"}
    | {"apply_patch_call", "apply_patch_call_output", "mcp_call", "mcp_list_tools", "mcp_approval_request"}
    | {"mcp_approval_response", "custom_tool_call", "custom_tool_call_output", "tool_search_call"}
    | {"tool_search_output", "additional_tools", "program", "program_output"}
    | {"compaction", "compaction_trigger", "configuration_update"}
)
"""Kinds of items that belong to these, or to what else is not offered."""


def offered(body: dict[str, Any]) -> None:
    """Raises `RequestError` for a tool, a choice of tools or an item of a kind that this server does not have."""
    for i, tool in enumerate(_listed(body.get("tools"))):
        kind = _kind(tool)
        if kind is not None and kind not in TOOLS:
            raise _no_tool(kind, f"tools.{i}.type")
    kind = _kind(body.get("tool_choice"))
    if kind is not None and kind not in TOOLS | {"allowed_tools"}:
        raise _no_tool(kind, "tool_choice.type")
    for i, item in enumerate(_listed(body.get("input"))):
        kind = _kind(item)
        if kind in ITEMS:
            raise RequestError(
                f"input.{i}.type is {kind}, which belongs to something that this server does not offer: leave the item "
                "out, or send what it says as a message",
                param=f"input.{i}.type",
                code="unsupported_parameter",
            )


def _no_tool(kind: str, param: str) -> RequestError:
    named = f" {kind}" if kind in HOSTED else ""
    how = "is not offered here" if kind in HOSTED else "is none that is known"
    return RequestError(
        f"{param}{' is' if named else ''}{named}, and a tool of that kind {how}: a tool is a function, which you run "
        "yourself",
        param=param,
        code="unsupported_parameter" if kind in HOSTED else "invalid_value",
    )


def _listed(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


def _kind(value: Any) -> str | None:
    kind = cast("dict[str, Any]", value).get("type") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None
