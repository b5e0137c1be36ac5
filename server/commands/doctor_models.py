"""What the doctor says of a model's files: its family, how it thinks and is switched, what of that is proven.

The tokenizer and the chat template are enough; no weights are looked at.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ponder.compute.errors import PonderError
from ponder.engines.launch import read_config, read_generation
from ponder.engines.model import Model
from ponder.engines.profiles import Profile, find, sampled, template_source
from ponder.engines.proving import CONTEXT, Proof, proofs_of, table
from ponder.server.commands.doctor_images import eyes, how_it_sees
from ponder.server.settings import ModelSettings


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found out about a model."""

    profile: Profile | None = None
    proofs: tuple[Proof, ...] = ()
    wrong: str = ""
    """Why there is no more to say."""
    mend: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What of its sampling its own `generation_config.json` says."""
    tools: str = ""
    """How it writes calls of tools; empty where that is not known."""
    unshown: tuple[str, ...] = ()
    """What of tools its chat template does not show it."""
    sight: tuple[bool | None, str, str] | None = None
    """Whether it reads images, in words, and what mends it; None: it has no part for them."""


def tokenizer_of(folder: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model whose files are here: that of transformers, or where it has no chat template or none can
    be made, the one that vLLM takes. Raises what transformers does."""
    made: Any = importlib.import_module("transformers").AutoTokenizer
    given = {"trust_remote_code": trust_remote_code}
    try:
        usual: Any = made.from_pretrained(folder, local_files_only=True, **given)
    except Exception:
        if (other := _of_vllm(folder, given)) is not None:
            return other
        raise
    return usual if template_source(usual) else _of_vllm(folder, given) or usual


def _of_vllm(folder: str, given: Mapping[str, Any]) -> Any:
    """Mistral's own format, and models whose prompts are made by program code; None where there is no vLLM, or it has
    none either."""
    try:
        registry: Any = importlib.import_module("vllm.tokenizers.registry")
        kind = str(read_config(folder).get("model_type", ""))
        mode = kind if kind in registry.TokenizerRegistry.tokenizers else "auto"
        return registry.get_tokenizer(folder, tokenizer_mode=mode, **given)
    except Exception:  # noqa: BLE001 (a broken install is told by another check; what is wrong here, by transformers)
        return None


def examined(name: str, folder: Path, settings: ModelSettings) -> Examined:
    """The profile of the model in a folder, and what is proven of it."""
    try:
        tokenizer = tokenizer_of(str(folder), trust_remote_code=settings.engine.trust_remote_code)
    except Exception as error:  # noqa: BLE001 (transformers raises a dozen kinds)
        said = next(iter(str(error).strip().splitlines()), "")[:200]
        return Examined(
            wrong=f"its tokenizer cannot be loaded ({type(error).__name__}: {said})",
            mend=f"ls {folder}  # tokenizer.json, tokenizer_config.json; for code of its own: trust_remote_code = true",
        )
    try:
        generation = read_generation(str(folder))
        chosen = settings.model_profile
        if chosen is None:
            # The name counts where the files say nothing, and a hub's cache has folders of other names.
            profile = find(settings.path, read_config(str(folder)), template_source(tokenizer), tokenizer, generation)
        else:
            profile = sampled(chosen, generation, keep=chosen.model_fields_set)
        seen = eyes(str(folder), read_config(str(folder)), settings)
        model = Model(
            tokenizer,
            profile,
            name,
            context=CONTEXT,
            vocabulary_size=len(tokenizer),
            images=None if seen is None else seen.reader,
        )
        said_by_it = {
            one: getattr(profile, one) for one in ("temperature", "top_p", "top_k", "min_p") if one in generation
        }
        return Examined(
            profile,
            tuple(proofs_of(model, tokenizer)),
            sampling=said_by_it,
            tools=model.card.tools,
            unshown=_unshown(model),
            sight=None if seen is None else how_it_sees(seen, model.prompts.reads_images),
        )
    except PonderError as error:
        return Examined(wrong=error.message, mend="a profile that fits it, in ponder.toml: docs/write-a-family.md")


def _unshown(model: Model) -> tuple[str, ...]:
    shown = model.prompts.shown
    named = (("tools", shown.tools), ("calls", shown.calls), ("results", shown.results))
    return tuple(name for name, there in named if not there)


def how_it_calls(tools: str, unshown: Sequence[str] = ()) -> tuple[bool | None, str, str]:
    """Whether its calls are read, in a line, and what mends it."""
    if tools:
        plain = f"; its template shows it no {' and no '.join(unshown)}: they are written into the text"
        return True, f"writes calls of tools as `{tools}` does{plain if unshown else ''}", ""
    return (
        None,
        "how it writes calls of tools is not known: requests with tools are refused",
        ("tools = ... in its profile, a name of engines/tools/formats.py: docs/write-a-family.md"),
    )


def how_it_thinks(profile: Profile) -> str:
    """How a model thinks, in a line."""
    if not profile.thinks:
        return f"profile {profile.name}: answers at once, without a thought"
    told = [f"profile {profile.name}: thinks"]
    if profile.channels:
        told[0] += f" in a channel of its own ({profile.channels})"
    elif profile.start:
        told[0] += f" between {profile.start!r} and {profile.end!r}"
    else:
        told[0] += f" until {profile.end!r}"
    if any(profile.wrapper):
        told.append(f"wraps its answer in {profile.wrapper[0]!r} and {profile.wrapper[1]!r}")
    told.append(f"is switched {switching(profile)}")
    if profile.reads_thoughts != "never":
        when = "of all turns" if profile.reads_thoughts == "always" else "of a tool loop"
        told.append(f"reads its thoughts {when} ({profile.thoughts_field})")
    if profile.effort:
        told.append(f"is told efforts ({profile.effort})")
    if profile.budget:
        told.append(f"is told its budget ({profile.budget})")
    return ", ".join(told)


def switching(profile: Profile) -> str:
    """How thinking is switched on and off, in words."""
    ways = [f"by the template's variable {profile.switch}"] if profile.switch else []
    on, off = (", ".join(f"{name} = {value!r}" for name, value in given.items()) for given in (profile.on, profile.off))
    if on or off:
        ways.append(f"by the template's variables (on: {on or 'nothing'}; off: {off or 'nothing'})")
    for said, where in ((profile.system, "a sentence in the system message"), (profile.word, "a word in the message")):
        if any(said):
            ways.append(f"by {where} (on: {said[0]!r}; off: {said[1]!r})")
    if profile.instruction:
        ways.append("on by an instruction in the system message")
    return " and ".join(ways) or f"off by {profile.closed!r} behind the prompt"


def facts(found: Examined) -> dict[str, Any]:
    """The same for a program."""
    profile = found.profile
    return {
        "profile": profile.model_dump(mode="json") if profile is not None else None,
        "toml": table(profile) if profile is not None else None,
        "sampling_of_its_makers": dict(found.sampling),
        "proofs": [{"of": one.of, "ok": one.ok, "words": one.words, "mend": one.mend} for one in found.proofs],
    }
