"""A test engine that does what it is asked, always in the same way: so that a test judges a server and not a model.

It thinks when it may, repeats what it was asked, calls the first tool it is offered, and writes the smallest document
that a schema allows. What it writes depends on the prompt and on what is wanted, never on a seed or a time, and it
keeps every limit of `Sampling`, as a `ScriptedEngine` does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from ponder.compute.engine import Delta, Grammar, Sampling
from ponder.compute.text import Message, Prompt
from ponder.compute.transcript import Transcript
from ponder.testing.scripted import CARD, Chain, JudgingEngine, ScriptedEngine, question
from ponder.testing.smallest import smallest

LONGEST = 240
"""Characters of a question that are repeated."""
THOUGHT = "The question is read, word for word.\nIts words are the answer."
"""What it thinks of every question, one token for each character."""
JUDGE = "judge"
"""The purpose of a call that wants a verdict (`CallIdentity.purpose`)."""


def written_call(name: str, arguments: str) -> str:
    """A call of a tool as the model writes it, in Hermes' form. `arguments` is JSON text."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


class EchoEngine(JudgingEngine):
    """The engine. Where it is to judge (the verifier `judge`), it says "Yes"."""

    def __init__(self, name: str = "echo", *, thought: str = THOUGHT, remembers: bool = True, **card: Any) -> None:
        """`remembers`: it keeps the prompts and wishes of its calls, for a test to look at; what runs for long keeps
        none. `card`: facts of its model that are not those of a scripted one."""
        super().__init__(lambda prompt, _, __: Chain(thought, self._said(prompt)), replace(CARD, name=name, **card))
        self._thought, self._remembers = thought, remembers

    async def accept(self, sampling: Sampling) -> None:
        await super().accept(sampling)
        if (grammar := sampling.grammar) is not None:
            if grammar.document or not grammar.calls:
                smallest(grammar.schema, grammar.param)
            for one in grammar.calls:
                smallest(one.parameters, one.param)

    def chain(self, prompt: Prompt, sampling: Sampling, thought: str, number: int) -> Chain:
        grammar = sampling.grammar
        said = self._said(prompt) if grammar is None else self._held(prompt, grammar)
        return Chain(self._thought if self._thought.startswith(thought) else thought, said)

    def _said(self, prompt: Prompt) -> str:
        """What it says where nothing constrains it: a call of the first tool, where the last turn is a question and
        there is one; else that turn again."""
        if prompt.tools and _asks(prompt):
            return written_call(prompt.tools[0].name, smallest(prompt.tools[0].parameters))
        return question(prompt)[:LONGEST].strip() or "Nothing was asked."

    def _held(self, prompt: Prompt, grammar: Grammar) -> str:
        """What it says under a constraint: a call where it must be one, or may be one and the last turn is a question;
        else the document."""
        if grammar.calls and (not grammar.document or _asks(prompt)):
            return written_call(grammar.calls[0].name, smallest(grammar.calls[0].parameters))
        return smallest(grammar.schema)

    async def generate(self, prompt: Prompt, sampling: Sampling, transcript: Transcript) -> AsyncGenerator[Delta]:
        judges = transcript.call.purpose == JUDGE
        kind = JudgingEngine if judges else ScriptedEngine
        async with aclosing(kind.generate(self, prompt, sampling, transcript)) as stream:
            if not self._remembers:
                for told in (self.prompts, self.samplings, self.identities):
                    told.clear()
            async for delta in stream:
                yield delta


def _asks(prompt: Prompt) -> bool:
    """The last turn is a user's, so no result of a call."""
    last: Message = prompt.messages[-1]
    return last.role == "user"
