"""Raw texts that a model goes on with as they stand: what of them becomes tokens, and which token ids are taken.

A text is a text: what a caller typed becomes no control token here either. Who wants control tokens sends token ids, of
which all are taken that the model's chat template writes itself, and that end or open a thought. Others stand for what
is not there (the place of an image), and may end the engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from ponder.compute.errors import RequestError
from ponder.compute.text import Raw
from ponder.engines.profiles import Profile
from ponder.engines.span_tokens import Span, SpanTokenizer

FILLS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
    ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),
)
"""What stands before a text, before its suffix and before what is written between the two, in the vocabularies of Qwen,
StarCoder, DeepSeek and CodeLlama (Bavarian et al. 2022, "Efficient Training of Language Models to Fill in the
Middle")."""


class RawTexts:
    """Those of one model."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        tokens: SpanTokenizer,
        profile: Profile,
        tails: Sequence[tuple[str, Sequence[int]]],
        written: Sequence[int],
    ) -> None:
        """`tails`: what the chat template writes behind the user's last message, as text and as token ids; `written`:
        tokens of conversations, of which control tokens may be among the ids of a caller."""
        self._tokenizer, self._profile = tokenizer, profile
        self._tails = [(text, tuple(ids)) for text, ids in tails if ids]
        markers = {tokenizer.token_to_id(text) for text in tokens.markers}
        plain = tokenizer.encode("x", add_special_tokens=False).ids
        whole = tokenizer.encode("x", add_special_tokens=True).ids
        self._begin = next((tuple(whole[:n]) for n in range(len(whole)) if whole[n : n + len(plain)] == plain), ())
        self._barred = frozenset(markers) - set(written) - set(self._begin)
        known = set(tokens.markers)
        self._fill = next((fill for fill in FILLS if known.issuperset(fill)), None)

    def spans(self, raw: Raw) -> list[Span]:
        """It in pieces. Raises `RequestError` for token ids that are not taken, and where the model cannot fill in."""
        if isinstance(raw.text, str):
            text = Span(raw.text, True)
        else:
            self._check(raw.text)
            text = Span("", True, raw.text)
        if not raw.suffix:
            return [text]
        if self._fill is None:
            raise RequestError(
                "suffix is not supported: this model's vocabulary has no tokens to fill in a middle",
                param="raw.suffix",
                code="unsupported_parameter",
            )
        before, behind, middle = self._fill
        return [Span(before, False), text, Span(behind, False), Span(raw.suffix, True), Span(middle, False)]

    def _check(self, ids: Sequence[int]) -> None:
        for token in set(ids):
            if self._tokenizer.id_to_token(token) is None:
                raise RequestError(
                    f"prompt has the token id {token}, which is not in this model's vocabulary",
                    param="raw.text",
                    code="invalid_value",
                )
            if token in self._barred:
                raise RequestError(
                    f"prompt has the token id {token}, a control token that this model's chat template does not write",
                    param="raw.text",
                    code="invalid_value",
                )

    def begin(self, raw: Raw) -> Sequence[int]:
        """What the model's tokenizer puts before a text; nothing before token ids."""
        return self._begin if isinstance(raw.text, str) else ()

    def tail(self, raw: Raw) -> str | None:
        """How the chat template ends a prompt, where token ids end so: then they are a conversation that was rendered
        elsewhere."""
        if isinstance(raw.text, str) or raw.suffix:
            return None
        ids = raw.text
        return next((text for text, tail in self._tails if ids[-len(tail) :] == tail), None)

    def opened(self, raw: Raw) -> bool:
        """A thought is opened in it and not closed; in a typed text, too, so that it is hidden how a model goes on with
        it. Of models whose thoughts are messages their tokens tell it."""
        profile = self._profile
        start = profile.start.strip()
        if not profile.thinks or profile.channels or not start or raw.suffix:
            return False
        text = raw.text
        if not isinstance(text, str):
            text = self._tokenizer.decode(list(text), skip_special_tokens=False)
        return text.rfind(start) > text.rfind(profile.end.strip())
