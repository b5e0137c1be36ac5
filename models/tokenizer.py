"""The tokenizer and chat template of the two demo models: byte-level BPE, digits one by one, ChatML with `<think>`."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ponder.models.small_talk import SYSTEMS, small_talk, small_talk_sentences
from ponder.models.task import make

WORK = Path(__file__).parent / "work"
VOCABULARY = 1152
SPECIALS = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
PAD, START, END, THINK, UNTHINK = range(len(SPECIALS))

# A step is few tokens long: `12 + 7 = 19` is 1, 2, ` + `, 7, ` = `, 1, 9. These pieces become added tokens, and all
# else is split the way Qwen2 splits: transformers loads any tokenizer of a Qwen2 model with Qwen2's own splitting.
PIECES = (" + ", " - ", " * ", " / ", " = ", " \\boxed{", "}.")
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TRAINING = (
    r" [-+*/=] | \\boxed\{|\}\."
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\r?\n|\s+(?!\S)|\s+"
)

# With enable_thinking=false the block is opened and closed in the prompt, so the answer comes at once.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and message.reasoning_content %}"
    "<think>\n{{ message.reasoning_content.strip('\\n') }}\n</think>\n{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n</think>\n{% endif %}{% endif %}"
)


def train(seed: int = 1) -> Tokenizer:
    """Byte-level BPE over freshly generated questions, thoughts and small talk."""
    rng = random.Random(seed)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _splitting(_TRAINING)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [problem.question for problem in (make(rng, "train") for _ in range(20_000))]
    texts += ["system\nuser\nassistant\nWait, 12 + 7 - 3 * 2 / 4 = 19\nThe answer is \\boxed{117}.\n"] * 20_000
    texts += [text for turn in (small_talk(rng) for _ in range(3000)) for text in turn]
    texts += list(SYSTEMS) * 200 + small_talk_sentences() * 100
    tokenizer.train_from_iterator(texts, trainer)
    return lift(tokenizer)


def _splitting(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def lift(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with PIECES taken out of its merges and made added tokens, under the ids they have."""
    tokenizer.pre_tokenizer = _splitting(_QWEN2)
    stored = json.loads(tokenizer.to_str())
    vocabulary = stored["model"]["vocab"]
    for piece in PIECES:
        learned = piece.replace(" ", "\u0120")
        vocabulary[piece] = vocabulary.pop(learned, None) or vocabulary[piece]
        stored["model"]["merges"] = [pair for pair in stored["model"]["merges"] if learned != "".join(pair)]
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        stored["added_tokens"].append({"id": vocabulary[piece], "content": piece} | plain)
    stored["added_tokens"].sort(key=lambda token: token["id"])
    return Tokenizer.from_str(json.dumps(stored))


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers and vLLM load it, chat template included."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=SPECIALS[END],
        pad_token=SPECIALS[PAD],
        unk_token=SPECIALS[PAD],
        additional_special_tokens=[SPECIALS[START]],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


@cache
def load(folder: Path = WORK / "tokenizer") -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
