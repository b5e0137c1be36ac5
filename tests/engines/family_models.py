"""Models of real families without their weights: the facts of a family, and a stand-in tokenizer with its markers.

Read from the folder that `TEST_TEMPLATES` names: `families.json`, a list of facts (`Family` has its fields), and the
chat templates beside it. The tests that need it say what is missing where it is not set; what every mechanism needs at
least is in `tests/engines/own_families/`, which has the same form and always runs.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

OWN = Path(__file__).parent / "own_families"


@dataclass(frozen=True)
class Family:
    """What is known of one model: what its folder has, and how it writes."""

    model: str
    template: str
    config: dict[str, Any]
    special_tokens: tuple[str, ...]
    added_tokens: tuple[str, ...]
    bos: str
    eos: str
    thinks: bool
    thought_begins: str
    thought_ends: str
    answer_wrapped_in: tuple[str, str]
    calls_get_weather_as: str
    folder: Path

    @property
    def chat_template(self) -> str:
        return (self.folder / self.template).read_text(encoding="utf-8")

    def __str__(self) -> str:
        return self.model.rpartition("/")[2]


def families(folder: Path) -> list[Family]:
    """The families of one folder; none where it has no `families.json`."""
    facts = folder / "families.json"
    if not facts.exists():
        return []
    adapter = TypeAdapter(list[Family])
    found: list[dict[str, Any]] = json.loads(facts.read_text(encoding="utf-8"))
    return adapter.validate_python([{**one, "folder": folder} for one in found])


def every_family() -> list[Family]:
    """Our own, and those of `TEST_TEMPLATES`."""
    named = os.environ.get("TEST_TEMPLATES")
    return families(OWN) + (families(Path(named)) if named else [])


@cache
def _plain() -> str:
    """A byte-level tokenizer that knows no marker, as JSON: a token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = cast(Any, Tokenizer)(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    pieces = pre_tokenizers.Split(Regex(r"\s*[\r\n]+|\s?[^\s\d]+|\d|\s+"), behavior="isolated")
    made.pre_tokenizer = cast(
        Any, pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    )
    made.decoder = cast(Any, decoders.ByteLevel())
    return str(made.to_str())


def tokenizer(family: Family) -> Any:
    """A transformers tokenizer with the family's template and markers: text is a token a byte."""
    made = cast(Any, Tokenizer).from_str(_plain())
    special = dict.fromkeys([*family.special_tokens, *(t for t in (family.bos, family.eos) if t)])
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    made.add_tokens([AddedToken(t, special=False, normalized=False) for t in family.added_tokens if t not in special])
    return cast(Any, PreTrainedTokenizerFast)(
        tokenizer_object=made,
        bos_token=family.bos or None,
        eos_token=family.eos or None,
        chat_template=family.chat_template,
    )


def save(family: Family, folder: Path) -> Path:
    """A model folder without weights: tokenizer, template and `config.json`."""
    tokenizer(family).save_pretrained(str(folder))
    (folder / "config.json").write_text(json.dumps(family.config), encoding="utf-8")
    return folder
