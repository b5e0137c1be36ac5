"""What a chat template can be seen to do: which texts it writes, which variables it asks for, what comes of a question.

A template is read in two ways: its syntax tree shows the texts in it and what is done with them, and what it renders
shows the rest.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from time import strftime
from typing import Any, cast

from jinja2 import TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment

from ponder.engines.profiles.profile import Value

Render = Callable[[list[dict[str, Any]], Mapping[str, Value]], str]
"""What a template makes of messages and variables, up to where the model goes on. Raises anything."""

_LOOKED_FOR = frozenset(
    {"split", "rsplit", "startswith", "endswith", "replace", "strip", "lstrip", "rstrip", "find", "rfind", "index"}
    | {"count", "partition", "rpartition", "removeprefix", "removesuffix", "trim"}
)
"""Methods and filters whose arguments are texts that a template looks for, and does not write."""
_THOUGHT = re.compile(r"think|thought|reason", re.IGNORECASE)


class ChatTemplate:
    """A chat template's source and what it renders."""

    def __init__(self, source: str, render: Render | None = None) -> None:
        """`render` is the tokenizer's own way; left out, the source is rendered here. A template that cannot be parsed
        shows nothing."""
        self.source = source
        self._environment = SandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        self._environment.filters["tojson"] = _to_json
        self._environment.globals.update(cast("Any", {"raise_exception": _refuse, "strftime_now": strftime}))
        try:
            self._tree = self._environment.parse(source)
        except TemplateError:
            self._tree = nodes.Template([])
        self._render = render or self._rendered

    def _rendered(self, messages: list[dict[str, Any]], variables: Mapping[str, Value]) -> str:
        given = {"bos_token": "", "eos_token": "", **variables}
        return self._compiled.render(messages=messages, add_generation_prompt=True, tools=None, **given)

    def render(self, messages: list[dict[str, Any]], variables: Mapping[str, Value]) -> str | None:
        """None where the template refuses."""
        # Some templates collect in lists what transformers forbids them to change.
        for way in (self._render, self._rendered) if self.source else (self._render,):
            try:
                return way(messages, variables)
            except Exception:  # noqa: BLE001, S112 (a template may fail in any way on values it was not made for)
                continue
        return None

    @cached_property
    def _compiled(self) -> Any:
        return self._environment.from_string(self.source)

    # -- what its source shows ----------------------------------------------------------------------------------------

    @cached_property
    def variables(self) -> frozenset[str]:
        """What the template reads and does not set itself, as far as can be seen."""
        # A tree of its own: what looks for them folds constants in it.
        return frozenset(meta.find_undeclared_variables(copy.deepcopy(self._tree))) - _GIVEN

    @cached_property
    def texts(self) -> list[str]:
        """All texts that it may write; those that it only looks for in a message are left out."""
        return list(self._texts(self._tree))

    @cached_property
    def written(self) -> str:
        """The same, one behind the other."""
        return "\n".join(self.texts)

    def _texts(self, node: nodes.Node) -> Iterator[str]:
        if isinstance(node, nodes.TemplateData):
            yield node.data
        elif isinstance(node, nodes.Const):
            if isinstance(node.value, str):
                yield node.value
        elif isinstance(node, nodes.Call) and _name(node.node) == "raise_exception":
            return
        elif isinstance(node, nodes.Call) and _name(node.node) in _LOOKED_FOR:
            yield from self._texts(node.node)
        elif isinstance(node, nodes.Filter) and node.name in _LOOKED_FOR:
            if node.node is not None:
                yield from self._texts(node.node)
        elif isinstance(node, nodes.Compare):
            return
        else:
            for child in node.iter_child_nodes():
                yield from self._texts(child)

    def values(self, variable: str) -> list[str]:
        """The texts that a variable is compared with."""
        found: dict[str, None] = {}
        for compare in self._tree.find_all(nodes.Compare):
            sides = [compare.expr, *(operand.expr for operand in compare.ops)]
            if any(isinstance(side, nodes.Name) and side.name == variable for side in sides):
                for side in sides:
                    consts = [side] if isinstance(side, nodes.Const) else side.find_all(nodes.Const)
                    found |= {const.value: None for const in consts if isinstance(const.value, str)}
        return list(found)

    @cached_property
    def words(self) -> list[str]:
        """Texts about thinking that it looks for in messages, such as `/no_think`."""
        found: dict[str, None] = {}
        for compare in self._tree.find_all(nodes.Compare):
            if any(operand.op in ("in", "notin") for operand in compare.ops) and isinstance(compare.expr, nodes.Const):
                value: Any = compare.expr.value
                if isinstance(value, str) and _THOUGHT.search(value) and not re.search(r"[<>\[\]▷]", value):
                    found[value] = None
        return list(found)

    @cached_property
    def thought_fields(self) -> list[str]:
        """Fields of a message that may hold a thought, such as `reasoning_content`; the usual one first."""
        found: dict[str, None] = {}
        for node in self._tree.find_all((nodes.Getattr, nodes.Getitem, nodes.Call, nodes.Compare)):
            name: object = None
            if isinstance(node, nodes.Getattr):
                name = node.attr
            elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
                name = node.arg.value
            elif isinstance(node, nodes.Call) and _name(node.node) == "get" and node.args:
                name = node.args[0].value if isinstance(node.args[0], nodes.Const) else None
            elif isinstance(node, nodes.Compare) and isinstance(node.expr, nodes.Const):
                name = node.expr.value
            if isinstance(name, str) and _THOUGHT.search(name) and name.isidentifier():
                found[name] = None
        return sorted(found, key=lambda name: name != "reasoning_content")


_GIVEN = frozenset(
    {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "pad_token", "unk_token", "documents"}
    | {"raise_exception", "strftime_now", "namespace", "range", "dict", "continue_final_message", "builtin_tools"}
)


def _name(node: nodes.Node) -> str:
    if isinstance(node, nodes.Name):
        return node.name
    return node.attr if isinstance(node, nodes.Getattr) else ""


class _Generation(Extension):
    """`{% generation %}` ... `{% endgeneration %}`, which transformers has for training: what is within."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's way)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def _refuse(message: str) -> None:
    raise TemplateError(message)
