"""Which family a model is of, and the profile that fits it: by what is in its files, the name last."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any, cast

from pydantic import ValidationError

from ponder.engines.profiles.markers import Pair
from ponder.engines.profiles.profile import Profile
from ponder.engines.profiles.reading import marked, read
from ponder.engines.profiles.tables import FAMILIES, INSTRUCT, THINK, Family
from ponder.engines.profiles.template import ChatTemplate, Render
from ponder.engines.tools import detect

_THINKER = re.compile(r"(?<!no)(?<!non)(?<!no[-_])(?<!non[-_])(?:think|reason)|(?<![a-z])r1(?![a-z0-9])")
"""Names of models that think."""
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")


def find(
    path: str,
    config: Mapping[str, Any],
    template: str,
    tokenizer: Any = None,
    generation: Mapping[str, Any] | None = None,
) -> Profile:
    """The profile that fits a model: by its chat template and its `tokenizer` (a transformers one, if it is there), its
    `config.json`, its `generation_config.json`; by its name only where these say nothing."""
    shown = ChatTemplate(template, renderer(tokenizer) if tokenizer is not None else None)
    tokens = added_tokens(tokenizer)
    profile = sampled(_found(path.lower(), config, shown, tokens), generation or {})
    if profile.tools != "none":
        return profile
    tools = detect(template, tokens, f"{PurePath(path).name} {config.get('model_type', '')}")
    return profile.model_copy(update={"tools": tools or "none"})


def _found(name: str, config: Mapping[str, Any], shown: ChatTemplate, tokens: frozenset[str]) -> Profile:
    name = f"{name} {config.get('_name_or_path', '')}".strip().lower()
    family = next((one for one in FAMILIES if _shows(one, config, shown, tokens)), None)
    if family is not None and "start" in family.profile.model_fields_set:
        fields = read(shown, tokens, Pair(family.profile.start, family.profile.end))
        if fields is not None or family.unseen:
            return _completed(family.profile, fields or {})
    fields = read(shown, tokens)
    if family is None:
        family = next((one for one in FAMILIES if _named(one, name)), None)
        if fields is not None:
            # A name tells less than a template.
            return (family.profile if family else THINK).model_copy(update=fields)
    if fields is not None:
        return _completed(family.profile if family else THINK, fields)
    if family is not None and family.unseen:
        return _completed(family.profile, read(shown, tokens, Pair(family.profile.start, family.profile.end)) or {})
    if any(_THINKER.search(PurePath(part).name) for part in name.split()):
        # Nothing shows how: the markers among its tokens, or the usual ones. Where they are wrong its whole text is
        # thought, and none of it is shown.
        base = THINK if family is None else family.profile
        return base.model_copy(update=marked(tokens))
    return INSTRUCT.model_copy(update=marked(tokens))


def _shows(family: Family, config: Mapping[str, Any], shown: ChatTemplate, tokens: frozenset[str]) -> bool:
    """The model's files say that it is of the family."""
    kind = str(config.get("model_type", ""))
    return (
        any(kind.startswith(one) for one in family.types)
        or (bool(family.tokens) and tokens.issuperset(family.tokens))
        or any(text in shown.written for text in family.says)
        or (family.smallest and int(config.get("vocab_size") or 1_000_000) < 5000)
    )


def _named(family: Family, name: str) -> bool:
    if family.smallest:
        return PurePath(name.split()[0] if name else "").name in family.named
    return any(part in name for part in family.named)


def _completed(profile: Profile, fields: Mapping[str, Any]) -> Profile:
    """With what was read in all that the family does not set itself."""
    more = {name: value for name, value in fields.items() if name not in profile.model_fields_set}
    return profile.model_copy(update=more)


def sampled(profile: Profile, generation: Mapping[str, Any], keep: Collection[str] = ()) -> Profile:
    """The same profile, sampled as the model's `generation_config.json` says but for the fields in `keep`. A value out
    of range is passed over."""
    found: dict[str, Any] = {}
    for name in _SAMPLING:
        value = generation.get(name)
        if value is None or name in keep:
            continue
        try:
            found[name] = getattr(Profile(**{name: value}), name)
        except ValidationError:
            continue
    return profile.model_copy(update=found)


def added_tokens(tokenizer: Any) -> frozenset[str]:
    """The tokens that were added to a tokenizer's vocabulary, control tokens and others."""
    if tokenizer is None:
        return frozenset()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return frozenset(str(token.content) for token in backend.get_added_tokens_decoder().values())
    # Mistral's own tokenizer calls none of its control tokens added.
    return frozenset((*cast("dict[str, int]", tokenizer.get_added_vocab()), *tokenizer.all_special_tokens))


def template_source(tokenizer: Any) -> str:
    """The source of its chat template; of several the usual one. Empty where it has none."""
    template: Any = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        named = cast("dict[str, str]", template)
        template = named.get("default") or next(iter(named.values()), "")
    return template if isinstance(template, str) else ""


def renderer(tokenizer: Any) -> Render:
    """Its own way to render messages."""

    def render(messages: list[dict[str, Any]], variables: Mapping[str, Any]) -> str:
        if getattr(tokenizer, "IS_MISTRAL_TOKENIZER", False):
            # It makes token ids, and warns of each text.
            return str(tokenizer.decode(tokenizer.apply_chat_template(messages), skip_special_tokens=False))
        text: Any = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **variables)
        if not isinstance(text, str):
            raise TypeError(f"a tokenizer renders to {type(text).__name__}, not to text")
        return text

    return render
