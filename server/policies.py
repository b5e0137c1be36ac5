"""What `auto` and `confidence` go by, for each model that is served: its policy's file, else the server's own rules."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from ponder.compute.policy import BUILT_IN, Policy, WrongPolicy, read
from ponder.server.settings import ModelSettings, WrongSettings

log = logging.getLogger("ponder.server")

LARGEST = 1 << 20
"""Bytes of a file that is read."""


def policy_of(name: str, model: ModelSettings) -> Policy:
    """The policy of a model. Raises `WrongSettings` where its file is none."""
    if model.policy is None:
        return BUILT_IN
    place = f"policy {model.policy} (of model {name})"
    try:
        file = Path(model.policy).expanduser()
        # A pipe in its place would be waited for.
        text = None if file.exists() and not file.is_file() else _begin_of(file)
    except OSError as error:
        raise WrongSettings(f"{place}: it cannot be read ({error.strerror or type(error).__name__})") from None
    except (RuntimeError, ValueError) as error:
        # No such home folder; a character that no name of a file may have.
        raise WrongSettings(f"{place}: it cannot be read ({error})") from None
    if text is None:
        raise WrongSettings(f"{place}: it is no file")
    if len(text) > LARGEST:
        raise WrongSettings(f"{place}: it has more than {LARGEST} bytes; `ponder calibrate` writes such files")
    try:
        return read(text)
    except WrongPolicy as error:
        raise WrongSettings("\n".join(f"{place}: {line}" for line in str(error).splitlines())) from None


def _begin_of(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(LARGEST + 1)


def policies_of(models: Mapping[str, ModelSettings]) -> dict[str, Policy]:
    """Those of models and their adapters, by name. Raises `WrongSettings`."""
    found: dict[str, Policy] = {}
    for name, model in models.items():
        found |= dict.fromkeys((name, *model.adapters), policy_of(name, model))
    return found


def other_model(name: str, model: ModelSettings, policy: Policy) -> str | None:
    """What is said of a policy that was learned for another model than the one it is to be used for."""
    known = (name, model.path, Path(model.path).name, *model.aliases)
    if policy.model is None or policy.model in known:
        return None
    return f"the policy of model {name} ({model.policy}) was learned for {policy.model}"


def warn(models: Mapping[str, ModelSettings], policies: Mapping[str, Policy]) -> None:
    """Says in the log which policies were learned for other models."""
    for name, model in models.items():
        if (words := other_model(name, model, policies[name])) is not None:
            log.warning("%s", words)
