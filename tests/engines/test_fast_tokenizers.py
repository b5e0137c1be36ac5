"""Tokenizers that bring no Rust tokenizer: tiktoken's, Mistral's, SentencePiece's; and prompts made in Python."""

from __future__ import annotations

import base64
import io
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import PreTrainedTokenizer

from ponder.compute.errors import EngineError, RequestError
from ponder.compute.text import Hidden, Message, Prompt, Tool, ToolCall, without_thoughts
from ponder.engines.fast_tokenizers import SAMPLES, fast_tokenizer
from ponder.engines.profiles import Profile, find
from ponder.engines.prompts import Prompts
from ponder.engines.thinking import Vocabulary

sentencepiece: Any = pytest.importorskip("sentencepiece")
tiktoken: Any = pytest.importorskip("tiktoken")
needs_vllm = pytest.mark.skipif(not find_spec("vllm"), reason="vLLM is not installed")
PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
WORDS = [
    " the",
    " a",
    "th",
    "the",
    "er",
    "in",
    " is",
    "is",
    "an",
    " W",
    "at",
    "hat",
    "What",
    " What",
    "\n\n",
    "12",
    "123",
]


def ranks() -> dict[bytes, int]:
    """All bytes, and some words with all that they are merged from."""
    pieces = [bytes([byte]) for byte in range(256)]
    for word in WORDS:
        raw = word.encode()
        pieces += [raw[:size] for size in range(2, len(raw) + 1)]
    return {piece: rank for rank, piece in enumerate(dict.fromkeys(pieces))}


Base: Any = PreTrainedTokenizer


class OwnCode(Base):
    """As models bring one whose vocabulary is tiktoken's."""

    def __init__(self, **kwargs: Any) -> None:
        mergeable = ranks()
        self.special = {text: len(mergeable) + number for number, text in enumerate(SPECIAL)}
        self.model = tiktoken.Encoding("own", pat_str=PATTERN, mergeable_ranks=mergeable, special_tokens=self.special)
        Base.__init__(self, additional_special_tokens=SPECIAL, eos_token="<|im_end|>", **kwargs)

    @property
    def vocab_size(self) -> int:
        return self.model.n_vocab

    def get_vocab(self) -> dict[str, int]:
        return {**{str(n): n for n in range(len(ranks()))}, **self.special}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [str(number) for number in self.model.encode_ordinary(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return self.special.get(token, int(token) if token.isdecimal() else 0)

    def _convert_id_to_token(self, index: int) -> str:
        return str(index)


def turns(text: str) -> str:
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n<think>\n"


def test_a_tokenizer_of_tiktokens_is_read_with_its_own_ids() -> None:
    made = OwnCode(chat_template=TEMPLATE)
    assert not hasattr(made, "backend_tokenizer")
    fast = fast_tokenizer(made)
    for sample in SAMPLES:
        assert fast.encode(sample, add_special_tokens=False).ids == made.model.encode_ordinary(sample)
    prompts = Prompts(cast(Any, made), Profile())
    rendered = prompts.render(Prompt((Message("user", "What is <|im_end|> in\u4f60?"),)), thinking=True)
    typed = "What is <|im_end|> in\u4f60?"
    ends = made.special["<|im_end|>"]
    whole = made.model.encode(turns("\ue000"), allowed_special="all")
    assert [i for i in rendered.ids if i in made.special.values()] == [i for i in whole if i in made.special.values()]
    assert rendered.ids.count(ends) == 1
    assert made.model.decode(list(rendered.ids)) == turns(typed)
    vocabulary = Vocabulary(prompts.tokenizer, "<think>", "</think>")
    assert vocabulary.by_ids
    assert b"".join(map(vocabulary.bytes, rendered.ids)) == turns(typed).encode()


class Odd(OwnCode):
    """One that splits text in a way of its own."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = tiktoken.Encoding("own", pat_str=r"\S\S+|\s+|.", mergeable_ranks=ranks(), special_tokens={})
        self.model._pat_str = PATTERN  # pyright: ignore[reportPrivateUsage]


class Unknown(Base):
    """Program code that nothing is known of."""

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return 0

    @property
    def vocab_size(self) -> int:
        return 1


@pytest.mark.parametrize(("kind", "words"), [(Unknown, "Unknown.*tokenizer.json"), (Odd, "Odd.*way of its own")])
def test_what_cannot_be_read_is_said_with_the_mend(kind: type[Any], words: str) -> None:
    with pytest.raises(EngineError, match=words):
        fast_tokenizer(kind(chat_template=TEMPLATE))


class Pieces(Base):
    """As models bring one over a SentencePiece model."""

    def __init__(self, vocab_file: str, **kwargs: Any) -> None:
        self.vocab_file = vocab_file
        self.sp_model = sentencepiece.SentencePieceProcessor(model_file=vocab_file)
        Base.__init__(self, **kwargs)

    @property
    def vocab_size(self) -> int:
        return cast(int, self.sp_model.get_piece_size())

    def get_vocab(self) -> dict[str, int]:
        return {cast(str, self.sp_model.id_to_piece(i)): i for i in range(self.vocab_size)}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return cast("list[str]", self.sp_model.encode(text, out_type=str))

    def _convert_token_to_id(self, token: str) -> int:
        return cast(int, self.sp_model.piece_to_id(token))

    def _convert_id_to_token(self, index: int) -> str:
        return cast(str, self.sp_model.id_to_piece(index))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Pieces:
    written = io.BytesIO()
    trainer: Any = sentencepiece.SentencePieceTrainer
    trainer.train(
        sentence_iterator=iter([*SAMPLES, "user assistant the thing is what it was " * 9] * 9),
        model_writer=written,
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        control_symbols=SPECIAL,
        hard_vocab_limit=False,
    )
    file = tmp_path_factory.mktemp("pieces") / "tokenizer.model"
    file.write_bytes(written.getvalue())
    return Pieces(
        str(file), bos_token="<s>", eos_token="</s>", additional_special_tokens=SPECIAL, chat_template=TEMPLATE
    )


def test_a_tokenizer_of_sentencepieces_is_read_with_its_own_ids(pieces: Pieces) -> None:
    fast = fast_tokenizer(pieces)
    for sample in SAMPLES:
        assert fast.encode(sample, add_special_tokens=False).ids == pieces.sp_model.encode(sample)
        assert fast.decode(fast.encode(sample, add_special_tokens=False).ids) == sample


def test_text_behind_a_marker_is_not_read_as_the_beginning_of_a_text(pieces: Pieces) -> None:
    """A text that begins is given a space, one that goes on is not: so it is in pieces as well."""
    prompts = Prompts(cast(Any, pieces), Profile())
    fast = prompts.tokenizer
    rendered = prompts.render(Prompt((Message("user", "What is it?"),)), thinking=True)
    assert list(rendered.ids) == fast.encode(turns("What is it?"), add_special_tokens=False).ids
    typed = prompts.render(Prompt((Message("user", "What <|im_end|> is it?"),)), thinking=True)
    assert typed.ids.count(cast(Any, fast).token_to_id("<|im_end|>")) == 1
    assert fast.decode(list(typed.ids), skip_special_tokens=False) == turns("What <|im_end|> is it?")


# -- Mistral's --------------------------------------------------------------------------------------------------------

CONTROL = [
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
    *("[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"),
]
MISTRAL = Profile(
    name="mistral",
    start="[THINK]",
    end="[/THINK]",
    opening="[THINK]",
    closing="[/THINK]",
    closed="[THINK][/THINK]",
)


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from vllm.tokenizers.mistral import MistralTokenizer

    folder = tmp_path_factory.mktemp("mistral")
    known = ranks()
    data = {
        "config": {
            "pattern": PATTERN,
            "num_vocab_tokens": len(known),
            "default_vocab_size": len(known) + 32,
            "default_num_special_tokens": 32,
            "version": "v13",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(piece).decode(), "token_str": None}
            for piece, rank in known.items()
        ],
        "special_tokens": [{"rank": n, "token_str": text, "is_control": True} for n, text in enumerate(CONTROL)],
    }
    (folder / "tekken.json").write_text(json.dumps(data), encoding="utf-8")
    return cast(Any, MistralTokenizer).from_pretrained(str(folder))


@needs_vllm
def test_mistrals_own_tokenizer_is_read_with_its_own_ids(mistral: Any) -> None:
    fast = fast_tokenizer(mistral)
    for sample in SAMPLES:
        assert fast.encode(sample, add_special_tokens=False).ids == mistral.encode(sample, add_special_tokens=False)
    assert [fast.token_to_id(text) for text in CONTROL] == list(range(len(CONTROL)))


@needs_vllm
def test_prompts_of_mistrals_own_tokenizer_are_the_ones_it_makes(mistral: Any) -> None:
    prompts = Prompts(mistral, MISTRAL)
    call = ToolCall("call_0123456789", "get_weather", '{"city": "[/INST]Rome"}')
    prompt = Prompt(
        (
            Message("system", "Be [INST] brief."),
            Message("user", "Weather in </s>Rome?"),
            Message("assistant", "", tool_calls=(call,)),
            Message("tool", "21 [/TOOL_RESULTS]", tool_call_id=call.id),
        ),
        (Tool("get_weather", "The [/AVAILABLE_TOOLS] weather", '{"type": "object", "properties": {}}'),),
    )
    for thinking, behind in ((True, ["[THINK]"]), (False, ["[THINK]", "[/THINK]"])):
        ids = prompts.render(prompt, thinking=thinking).ids
        control = [CONTROL[i] for i in ids if i < len(CONTROL)]
        assert control == [
            *("<s>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[INST]"),
            *("[/INST]", "[TOOL_CALLS]", "[ARGS]", "</s>", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", *behind),
        ]
    with pytest.raises(RequestError, match="does not take"):
        prompts.render(Prompt((Message("tool", "x", tool_call_id="a"),)), thinking=True)


# -- prompts made by a program of vLLM's ------------------------------------------------------------------------------


class Programmed(OwnCode):
    """As DeepSeek-V3.2's: a program of its own renders conversations, and there is no chat template."""

    acts = False

    def apply_chat_template(self, messages: list[dict[str, Any]], tools: Any = None, **kwargs: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        text = "".join(json.dumps(tool, ensure_ascii=False) for tool in cast("list[Any]", tools or []))
        for message in messages:
            said = message["content"]
            if self.acts and "</think>" in said:
                said = said.split("</think>")[-1]
            text += f"<|im_start|>{message['role']}\n{said}<|im_end|>\n"
        return text + "<|im_start|>assistant\n"


class Acting(Programmed):
    """One that looks into what was typed."""

    acts = True


@pytest.mark.parametrize("kind", [Programmed, Acting])
def test_a_program_that_renders_is_asked_twice(kind: type[Any]) -> None:
    made = kind()
    prompts = Prompts(made, Profile())
    for text in ("plain", "x<|im_end|>y", "im_end|>", "a \ue123 b", "a</think>b"):
        prompt = Prompt((Message("user", text),), (Tool("f<|im_end|>", text, "{}"),))
        rendered = prompts.render(prompt, thinking=True)
        markers = [i for i in rendered.ids if i in made.special.values()]
        assert markers == [made.special[m] for m in ("<|im_start|>", "<|im_end|>", "<|im_start|>", "<think>")]
        if kind is Programmed:
            turns_made = made.apply_chat_template([{"role": "user", "content": text}])
            shown = made.model.decode(list(rendered.ids)).replace("\u200b", "")
            assert shown.endswith(turns_made + "<think>\n")


@needs_vllm
def test_the_prompts_of_deepseek_v32_are_those_of_vllms_program(v32: Any) -> None:
    prompts = Prompts(v32, Profile())
    prompt = Prompt(
        (
            Message("user", "What \uff5cDSML\uff5c </think> is?"),
            Message("assistant", "", tool_calls=(ToolCall("1", "f", '{"city": "<\uff5cUser\uff5c>"}'),)),
            Message("tool", "21", tool_call_id="1"),
        ),
        (Tool("f", "d <think>", '{"type": "object"}'),),
    )
    turns_made, tools = prompts.made_of(prompt, True)(str)
    expected = v32.apply_chat_template(turns_made, tools=tools, tokenize=False, thinking=True, enable_thinking=True)
    spans = prompts.spans(prompt, True)
    assert "".join(span.text for span in spans) == expected
    typed = {piece for span in spans if span.typed for piece in ("User", "think", "DSML") if piece in span.text}
    assert typed == {"User", "think", "DSML"}
    ids = prompts.tokenised(spans)
    assert ids.count(v32.convert_tokens_to_ids("<\uff5cUser\uff5c>")) == 1
    assert ids.count(v32.convert_tokens_to_ids("</think>")) == expected.count("</think>") - 1


@needs_vllm
def test_the_thoughts_that_vllms_program_reads_are_found_and_given_to_it(v32: Any) -> None:
    profile = find("deepseek-ai/DeepSeek-V3.2", {}, "", v32)
    assert (profile.reads_thoughts, profile.thoughts_field) == ("tool_loop", "reasoning")
    prompts = Prompts(v32, profile)
    call = ToolCall("1", "f", "{}")
    turns = (
        Message("user", "What is?"),
        Message("assistant", "", tool_calls=(call,), thought=Hidden("I look </think> it up.\n")),
        Message("tool", "21", tool_call_id="1"),
    )
    prompt = Prompt(turns, (Tool("f", "d", "{}"),))
    text = "".join(span.text for span in prompts.spans(prompt, True))
    assert "I look </think> it up." in text
    given, tools = prompts.made_of(Prompt(without_thoughts(prompt).messages, prompt.tools), True)(str)
    given[1]["reasoning"] = "I look </think> it up." + ("" if profile.closing[:1].isspace() else "\n")
    assert text == v32.apply_chat_template(given, tools=tools, tokenize=False, **prompts.variables(True))


@pytest.fixture(scope="module")
def v32(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from vllm.tokenizers.deepseek_v32 import DeepseekV32Tokenizer

    from tests.engines.family_models import Family, tokenizer

    folder = tmp_path_factory.mktemp("v32")
    begin, end = "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"
    special = (begin, end, "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>")
    (folder / "none.jinja").write_text("")
    family = Family(
        "v32", "none.jinja", {}, special, ("<think>", "</think>", "\uff5cDSML\uff5c"), begin, end, True, "", "",
        ("", ""), "", folder,
    )  # fmt: skip
    made = tokenizer(family)
    made.chat_template = None
    made.save_pretrained(str(folder))
    (folder / "config.json").write_text("{}")
    return cast(Any, DeepseekV32Tokenizer).from_pretrained(str(Path(folder)))
