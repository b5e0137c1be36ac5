"""The markers around a thought, as they show in a template's texts and in a tokenizer's added tokens."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

_TAG = re.compile(r"(?:<\|?|\[|◁)[^\s<>\[\]◁▷|]{0,24}\|?[^\s<>\[\]◁▷]{0,40}(?:\|?>|\]|▷)")
_THOUGHT = re.compile(r"think|thought|reason(?!ing_effort)", re.IGNORECASE)
_ENDING = re.compile(r"/|(?<![a-z])(?:end|close|stop)(?![a-z])", re.IGNORECASE)
_OPENS = (("begin", "end"), ("start", "end"), ("BEGIN", "END"), ("START", "END"), ("open", "close"))


@dataclass(frozen=True, slots=True)
class Pair:
    """How a thought begins and ends."""

    start: str
    end: str


KNOWN = (
    Pair("<|inner_prefix|>", "<|inner_suffix|>"),
    Pair("<|channel>", "<channel|>"),
    Pair("<unused94>", "<unused95>"),
    Pair("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    Pair("<|content_thinking|>", "<|content_text|>"),
    Pair("to=self<|message|>", "to=user<|message|>"),
    Pair("Here is my thought process:", "Here is my response:"),
)
"""Pairs that do not show by their form: of several tokens, or with other words."""

WRAPPERS = (
    ("<response>", "</response>"),
    ("<answer>", "</answer>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<output>", "</output>"),
    ("<Output>", "</Output>"),
    ("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
)
"""What models are known to write around an answer."""


def pairs(begun: Iterable[str], ended: str) -> list[Pair]:
    """The pairs whose begin stands in one of the texts `begun`, in their order, and whose end stands in `ended`."""
    texts = list(begun)
    whole = "\n".join(texts)
    found: dict[Pair, None] = {pair: None for pair in KNOWN if pair.start in whole and pair.end in ended}
    for tag in filter(None, map(_opens, (tag for text in texts for tag in _TAG.findall(text)))):
        found |= {Pair(tag, end): None for end in ends(tag) if end in ended}
    return list(found)


def left_open(tail: str) -> Pair | None:
    """The pair whose begin a text ends on."""
    tags = _TAG.findall(tail)
    if tags and tail.rstrip().endswith(tags[-1]) and (tag := _opens(tags[-1])):
        return Pair(tag, ends(tag)[0])
    return None


def _opens(tag: str) -> str:
    """The tag, where it is the begin of a thought."""
    return tag if _THOUGHT.search(tag) and not _ENDING.search(tag) else ""


def ends(start: str) -> list[str]:
    """What may end a thought that this begins: `</think>` for `<think>`, and so on."""
    inner = re.match(r"\W*", start)
    at = inner.end() if inner else 0
    found = [f"{start[:at]}/{start[at:]}"]
    if start[:at] == "<|":
        found.append(f"</|{start[at:]}")
    found += [start.replace(begin, end) for begin, end in _OPENS if begin in start]
    return found


def wrapper(texts: Iterable[str], tokens: Collection[str], pair: Pair) -> tuple[str, str]:
    """What wraps the answer; two empty texts where nothing does. It is among the tokens, or in a text that has the
    thought's begin too: elsewhere the same words stand around other things."""
    told = [text for text in texts if pair.start in text]
    for begin, end in WRAPPERS:
        if {begin, end} <= set(tokens) or any(begin in text and end in text for text in told):
            return begin, end
    return "", ""
