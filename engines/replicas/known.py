"""What is known of a model that runs elsewhere: its tokenizer, its profile, how its prompts are written.

It is read once for all servers of the model, from its folder or from the hub, without its weights and without torch.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from ponder.compute.errors import EngineError, RequestError
from ponder.engines.held_grammars import HeldGrammars
from ponder.engines.launch import GRAMMAR_SECONDS, read_config, read_generation
from ponder.engines.model import Model
from ponder.engines.profiles import Profile
from ponder.engines.proving import CONTEXT, fitting
from ponder.engines.tools import DEFAULT

log = logging.getLogger(__name__)

WRITING_SECONDS = 120
"""For a process that writes a vocabulary down."""


class KnownModel:
    """A model without its weights."""

    def __init__(
        self,
        path: str,
        name: str,
        profile: Profile,
        tokenizer: Any,
        *,
        vocabulary: int,
        repetition_in_answers: bool = False,
        grammar_seconds: float = GRAMMAR_SECONDS,
    ) -> None:
        self.path, self.name, self.profile, self.tokenizer = path, name, profile, tokenizer
        self.vocabulary = vocabulary
        self.repetition_in_answers = repetition_in_answers
        self._models: dict[int, Model] = {}
        self.grammars: HeldGrammars | None = None
        """None where xgrammar, which makes grammars of schemas, is not installed."""
        if find_spec("xgrammar") is not None:
            tools = self.model(CONTEXT).card.tools or DEFAULT
            self.grammars = HeldGrammars(tools, grammar_seconds, self._written_vocabulary)

    def model(self, context: int) -> Model:
        """The model in a server of this context, in tokens; the same for equal ones."""
        made = self._models.get(context)
        if made is None:
            made = self._models[context] = Model(
                self.tokenizer,
                self.profile,
                self.name,
                context=context,
                vocabulary_size=self.vocabulary,
                repetition_in_answers=self.repetition_in_answers,
            )
        return made

    def _written_vocabulary(self) -> str:
        """xgrammar's `TokenizerInfo` as JSON. By a process of its own: xgrammar is loaded without torch there, which
        would be gone for the rest of this one, too."""
        command = [sys.executable, "-m", "ponder.engines.replicas.vocabulary", self.path, str(self.vocabulary)]
        made = subprocess.run(command, capture_output=True, timeout=WRITING_SECONDS, check=True)  # noqa: S603
        return made.stdout.decode()

    def close(self) -> None:
        """Lets go of the vocabulary. Idempotent."""
        if self.grammars is not None:
            self.grammars.close()


async def know(
    path: str,
    *,
    name: str,
    profile: Profile | None = None,
    repetition_in_answers: bool = False,
    grammar_seconds: float = GRAMMAR_SECONDS,
    trust_remote_code: bool = False,
) -> KnownModel:
    """What its files say of a model, in a folder or by its hub id. Without a profile, its family is told by them.
    Raises `EngineError` where they cannot be had, or the profile does not fit."""

    def read() -> KnownModel:
        config = read_config(path)
        generation = read_generation(path)
        tokenizer = tokenizer_of(path, trust_remote_code=trust_remote_code)
        size = vocabulary_size(config, tokenizer)
        fits = fitting(tokenizer, name, path, profile, config, generation, vocabulary_size=size)
        return KnownModel(
            path,
            name,
            fits,
            tokenizer,
            vocabulary=size,
            repetition_in_answers=repetition_in_answers,
            grammar_seconds=grammar_seconds,
        )

    return await asyncio.to_thread(read)


def tokenizer_of(path: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer in a folder or of a hub id. Raises `EngineError` where it has none that can be read here."""
    made: Any = importlib.import_module("transformers").AutoTokenizer
    try:
        return made.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # noqa: BLE001 (the hub's client and the tokenizers raise a dozen kinds)
        raise EngineError(
            f"the tokenizer of {path!r}, with which a model in a server elsewhere is read, cannot be had "
            f"({type(error).__name__}): give a folder or hub id that has it"
        ) from None


def vocabulary_size(config: dict[str, Any], tokenizer: Any) -> int:
    """Of a model's logits, which may have some places more than its tokenizer has tokens."""
    for found in (config, config.get("text_config"), config.get("llm_config")):
        if isinstance(found, dict) and isinstance(size := found.get("vocab_size"), int):  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            return max(size, len(tokenizer))
    return len(tokenizer)


def no_grammars(param: str) -> RequestError:
    """Why a schema is refused where xgrammar is not installed."""
    return RequestError(
        "this server cannot hold answers to a schema: it has no xgrammar, which makes grammars of schemas. Its "
        "operator can install it, without torch too: pip install --no-deps xgrammar apache-tvm-ffi numpy",
        param=param,
        code="unsupported_parameter",
    )
