"""Calls that may begin anywhere in a free text, and are held from their first character on.

What begins a call is a trigger: the text is free up to it, and behind it stands the rest of a call that is held. Where
a family's calls may also be begun in a way that cannot be held, the text has no such words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from ponder.engines.tools.form import Ebnf, Form, HeldTool, InText, Tag, any_number, constant, one_of, sequence


def behind_openers(form: Form, tools: Sequence[HeldTool], several: bool, ebnf: Ebnf) -> InText:
    """Calls as the form holds them, each begun by the first of its openers that it begins with; the others are
    excluded."""
    held = form.held(tools, several, ebnf)
    rules: list[tuple[str, Tag]] = []
    excluded: list[str] = []
    for opener in dict.fromkeys(form.openers([tool.name for tool in tools])):
        rest = behind(held, opener)
        if rest is None:
            excluded.append(opener)
        else:
            rules.append((opener, rest))
    return InText(rules, excluded)


def behind(tag: Tag, prefix: str) -> Tag | None:
    """What of a tag stands behind the text that it begins with; None where it cannot begin so."""
    if not prefix:
        return tag
    match tag["type"]:
        case "const_string":
            value = str(tag["value"])
            return constant(value.removeprefix(prefix)) if value.startswith(prefix) else None
        case "tag":
            begin, rest = str(tag["begin"]), cast("Mapping[str, Any]", tag)
            if begin.startswith(prefix):
                return {**rest, "begin": begin.removeprefix(prefix)}
            if not prefix.startswith(begin):
                return None
            content = behind(tag["content"], prefix.removeprefix(begin))
            return None if content is None else sequence(content, *([constant(tag["end"])] if tag["end"] else ()))
        case "sequence":
            first, *others = tag["elements"]
            begun = behind(first, prefix)
            return None if begun is None else sequence(begun, *others)
        case "or":
            ways = [way for one in tag["elements"] if (way := behind(one, prefix)) is not None]
            return one_of(ways) if ways else None
        case "tags_with_separator":
            ways = [way for one in tag["tags"] if (way := behind(one, prefix)) is not None]
            if not ways:
                return None
            if tag["stop_after_first"]:
                return one_of(ways)
            return sequence(one_of(ways), any_number(sequence(constant(tag["separator"]), one_of(tag["tags"]))))
        case _:
            return None
