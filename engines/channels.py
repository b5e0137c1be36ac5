"""The messages of one turn in harmony, the format of gpt-oss: which of them are thought, which are answer, which calls.

A turn is a run of messages. Each has a head, `<|start|>assistant<|channel|>analysis<|message|>`, and a body, and ends
with `<|end|>`, the last with `<|return|>`, a call with `<|call|>`. The channel "analysis" is thought; "final" is the
answer, and so is "commentary" where nobody but the user is its recipient: what the model says before it calls. A head
with a recipient, on either side of the channel's name, is that of a call. (OpenAI, "Harmony response format", 2025.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from ponder.compute.errors import EngineError

HEAD = "<|start|>assistant"
"""What a message begins with; the template leaves the model behind it."""
END = "<|end|>"
CALL = "<|call|>"
MESSAGE = "<|message|>"
THOUGHT = f"<|channel|>analysis{MESSAGE}"
"""Behind `HEAD`, what opens a thought."""
ANSWER = f"<|channel|>final{MESSAGE}"
"""Behind `HEAD`, what opens the answer."""
BANNED = "<|channel|>analysis"
"""What may not be written where there is nothing left for thoughts."""
TURN_ENDS = ("<|return|>", CALL)

_BUILT_IN = re.compile(r"(?:python|browser|container|assistant|user)\b")
"""Recipients that are no functions of the caller's."""
_RECIPIENT = re.compile(r"(?:^|\s|\w)to=([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w*)")

Side = Literal["thought", "answer", "call"]


class Harmony:
    """The control tokens of one vocabulary."""

    def __init__(self, ids: Mapping[str, int], spell: Callable[[Sequence[int]], str]) -> None:
        """`ids` of added tokens by their text; `spell` is what a run of tokens says, control tokens spelt out. Raises
        `EngineError` where one that is needed is missing."""
        needed = ("<|start|>", END, "<|channel|>", MESSAGE)
        if missing := [text for text in needed if text not in ids]:
            raise EngineError(
                f'the profile says channels = "harmony", and the tokenizer has no {", ".join(missing)}: '
                "it is not a model that writes harmony, or its tokenizer is not the one it was trained with"
            )
        self.start, self.end, self.channel, self.message = (ids[text] for text in needed)
        self.ends = frozenset((self.end, *(ids[text] for text in TURN_ENDS if text in ids)))
        """They end a message."""
        self.controls = frozenset((self.start, self.channel, self.message, *self.ends))
        self.spell = spell

    def side(self, head: Sequence[int]) -> Side:
        """What a message with this head is. One whose channel is unknown is taken for thought."""
        text = self.spell(head)
        if found := _RECIPIENT.search(text):
            return "thought" if _BUILT_IN.match(found[1]) else "call"
        found = _CHANNEL.search(text)
        return "answer" if found is not None and found[1] in ("final", "commentary") else "thought"

    def final(self, head: Sequence[int]) -> bool:
        """The head is that of an answer and of no other message."""
        found = _CHANNEL.search(self.spell(head))
        return self.side(head) == "answer" and found is not None and found[1] == "final"

    def head(self, ids: Sequence[int]) -> list[int]:
        """The head that these tokens end within."""
        begun = len(ids)
        while begun > 0 and ids[begun - 1] != self.message and ids[begun - 1] not in self.ends:
            begun -= 1
            if ids[begun] == self.start:
                break
        return list(ids[begun:])

    def thoughts(self, ids: Sequence[int]) -> list[list[int]]:
        """The bodies of messages, of tokens that begin within one."""
        bodies: list[list[int]] = [[]]
        within = True
        for token in ids:
            if token == self.message:
                bodies.append([])
                within = True
            elif token in self.controls:
                within = False
            elif within:
                bodies[-1].append(token)
        return [body for body in bodies if body]


class Turn:
    """Reads one turn token by token."""

    def __init__(
        self,
        harmony: Harmony,
        *,
        inside: bool,
        prompt: Sequence[int] = (),
        chain: Sequence[int] = (),
        final_only: bool = False,
    ) -> None:
        """`inside`: it begins within a thought, which counts where there is no `prompt`; `chain`: what was written of
        it before. `final_only`: nothing but the final message is taken for an answer."""
        self.harmony = harmony
        self.final_only = final_only
        self.head: list[int] | None = None
        """Of a message whose body has not begun; None within a body."""
        self.side: Side = "thought" if inside else "answer"
        """What the message is; before its body, what the one before was."""
        last = next((n for n in range(len(prompt) - 1, -1, -1) if prompt[n] in harmony.controls), -1)
        if last >= 0 and prompt[last] == harmony.message:
            self.side = self._side(harmony.head(prompt[:last]))
        elif last >= 0:
            self.side, self.head = "answer", harmony.head(prompt)
        for token in chain:
            if self.head is not None or token in harmony.controls:
                self.step(token)

    @property
    def inside(self) -> bool:
        """What comes is thought, or may be."""
        return self.side == "thought"

    def _side(self, head: Sequence[int]) -> Side:
        return "thought" if self.final_only and not self.harmony.final(head) else self.harmony.side(head)

    def step(self, token: int) -> tuple[bool, str]:
        """(the token is part of a visible body, what is said beside it: the head or the end of a call)."""
        harmony = self.harmony
        if token not in harmony.controls:
            if self.head == [] and not self.inside:
                # A message without a head, where a grammar writes the answer.
                self.side, self.head = "answer", None
            if self.head is None:
                return self.side != "thought", ""
            self.head.append(token)
            return False, ""
        if token == harmony.message:
            head, self.head = self.head, None
            if head is None:
                return False, ""
            self.side = self._side(head)
            return False, self.opening(head) if self.side == "call" else ""
        said = self.closing()
        if self.head is None or token != harmony.channel:
            self.head = []
        if token not in harmony.ends:
            self.head.append(token)
        return False, said

    def opening(self, head: Sequence[int]) -> str:
        """How the head of a call is shown: as in the template, wherever its beginning stands."""
        text = self.harmony.spell(head)
        return f"{HEAD}{text.removeprefix(HEAD)}{MESSAGE}"

    def closing(self) -> str:
        """What ends a message that ends here, as shown."""
        return CALL if self.side == "call" and self.head is None else ""

    def rest(self, *, open_head: bool, bare: bool = False) -> str:
        """What has to be put in for the answer to begin. With `open_head` the model chooses the channel; `bare`: behind
        the end of the message before, as a grammar writes all that follows."""
        if bare:
            return END if self.head is None else MESSAGE + END if self.head else ""
        to = HEAD if open_head else HEAD + ANSWER
        if self.head is None:
            return END + to
        text = self.harmony.spell(self.head)
        for wanted in (to, to.removeprefix(HEAD)):
            if wanted and wanted.startswith(text):
                return wanted[len(text) :]
        found = _CHANNEL.search(text)
        if open_head and not (found and found[1] and "analysis".startswith(found[1])):
            return ""
        return MESSAGE + END + to

    def close(self, ids: Sequence[int]) -> None:
        """These tokens were put in, and what comes is no thought."""
        for token in ids:
            self.step(token)
        if self.head is not None:
            self.side = "answer"

    def unheaded(self) -> str:
        """What was written where a head should be and is none: an answer without one."""
        text = "" if self.head is None or self.inside else self.harmony.spell(self.head).removeprefix(HEAD)
        return "" if "<|" in text or _RECIPIENT.match(text) else text
