"""vLLM's own options, given by their own names: which there are, of what kind, and which the server decides itself.

They are read off vLLM's source, so that a configuration is checked in a moment, without loading vLLM.
"""

from __future__ import annotations

import ast
import difflib
import json
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

DECIDED: Mapping[str, str] = {
    "model": "the model is named by `model`, or by `path` in its table",
    "served_model_name": "a model is served by the name of its table",
    "runner": "a model that is served writes, and a reward model reads",
    "convert": "a model that is served writes, and a reward model reads",
    "pooler_config": "how a reward model is read is said by `prm_profile`",
    "skip_tokenizer_init": "prompts are tokenised here",
    "enable_prefix_caching": "the prefix cache is always on: chains are continued from it",
    "scheduler_cls": "chains that are continued are scheduled by a class of the server's own",
    "structured_outputs_config": "grammars are held as the server writes them",
    "reasoning_parser": "thoughts are told from answers by `profile`",
    "reasoning_parser_plugin": "thoughts are told from answers by `profile`",
    "reasoning_config": "thoughts are told from answers by `profile`, and bounded by budgets",
    "generation_config": "what a request leaves open is taken from `profile`",
    "override_generation_config": "what a request leaves open is taken from `profile`",
    "enable_log_requests": "requests are never logged",
    "use_tqdm_on_load": "nothing is drawn on the terminal",
    "enable_lora": "it is on where a model has `adapters`",
    "logprobs_mode": "confidence is read off the log-probabilities of the unchanged model",
    "data_parallel_external_lb": "replicas are balanced in this process",
    "data_parallel_hybrid_lb": "replicas are balanced in this process",
    "data_parallel_multi_port_external_lb": "replicas are balanced in this process",
    "disable_log_stats": "the engine's metrics are told by GET /metrics",
    "log_config_file": "logging is set by `log_level`",
    "log_level": "logging is set by `log_level` of the server",
    "logging_config": "logging is set by `log_level` of the server",
}
"""Options that are refused, and why."""


@cache
def options(source: Path | None = None) -> Mapping[str, str]:
    """vLLM's options with their types as it writes them; none where vLLM is not installed."""
    spec = None if source else find_spec("vllm")
    if spec is not None and spec.origin is not None:
        source = Path(spec.origin).parent / "engine" / "arg_utils.py"
    if source is None or not source.is_file():
        return {}
    classes = [n for n in ast.parse(source.read_text(encoding="utf-8")).body if isinstance(n, ast.ClassDef)]
    return {
        field.target.id: ast.unparse(field.annotation).strip("'")
        for one in classes
        if one.name in ("EngineArgs", "AsyncEngineArgs")
        for field in one.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.target.id[0] != "_"
    }


def checked(name: str, value: Any) -> Any:
    """The value of an option of vLLM's, as its type wants it. Raises `ValueError` in plain words for a name it does not
    know, a value of another type, and what the server decides itself."""
    if name in DECIDED:
        raise ValueError(f"the server decides this itself: {DECIDED[name]}")
    known = options()
    if not known:
        return value
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ValueError("vLLM has no such option" + (f"; did you mean {near[0]}?" if near else ""))
    kind = _kind(known[name])
    if kind is None:
        return _from_json(value)
    try:
        return kind.validate_python(value)
    except ValidationError:
        pass
    try:
        return kind.validate_python(_from_json(value))
    except ValidationError:
        wanted = known[name].replace(" | None", "")
        raise ValueError(f"vLLM wants {wanted} here, and it is {type(value).__name__}") from None


def _from_json(value: Any) -> Any:
    """Tables and lists come as JSON from the environment."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


@cache
def _kind(annotation: str) -> TypeAdapter[Any] | None:
    """The type, where it is made of Python's own; None where it is one of vLLM's, which checks it itself."""
    names = {"Any": Any, "Literal": Literal, **{t.__name__: t for t in (bool, int, float, str, list, dict, set, tuple)}}
    try:
        found: Any = eval(annotation, {"__builtins__": {}}, names)  # noqa: S307 (a type in vLLM's own source)
        return TypeAdapter(found, config=ConfigDict(strict=False))
    except (NameError, AttributeError, TypeError, SyntaxError, PydanticUserError):
        return None
