"""The table of the APIs this server has. A new one is a package beside these and a line here, or another package with
an entry point."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint

from starlette.routing import compile_path

from ponder.compute.errors import PonderError
from ponder.compute.plugins import BrokenPlugin, broken, loaded, named, points
from ponder.server.dialect import ByPath, Dialect
from ponder.server.dialects.anthropic import models
from ponder.server.dialects.anthropic.dialect import AnthropicMessages, AnthropicTokenCounts
from ponder.server.dialects.anthropic.models import MessageModel, MessageModels
from ponder.server.dialects.anthropic.reading import VERSION
from ponder.server.dialects.gemini import models as google_models
from ponder.server.dialects.gemini.dialect import KEY_HEADER, Gemini, methods
from ponder.server.dialects.gemini.models import GeminiModel, GeminiModelPages, GeminiModels
from ponder.server.dialects.openai_chat.dialect import OpenAIChat
from ponder.server.dialects.openai_completions.dialect import OpenAICompletions
from ponder.server.dialects.openai_responses.dialect import OpenAIInputTokens, OpenAIResponses
from ponder.server.settings import WrongSettings
from ponder.server.status import ModelLister

__all__ = [
    "DEFAULT",
    "DIALECTS",
    "GOOGLE",
    "GOOGLE_ROOT",
    "GROUP",
    "GeminiModel",
    "GeminiModelPages",
    "GeminiModels",
    "MessageModel",
    "MessageModels",
    "google_speaker",
    "installed",
    "lister",
    "plugins",
    "speaker",
]

DEFAULT = OpenAIChat()
"""Reads the keys and writes the errors of all routes that belong to no dialect (models, health, metrics, 404)."""
MESSAGES = AnthropicMessages()
GOOGLE, GOOGLE_ROOT = Gemini(), "/v1beta/"
"""The dialect of all routes below this path."""
DIALECTS: Sequence[Dialect] = (
    DEFAULT,
    MESSAGES,
    AnthropicTokenCounts(),
    OpenAICompletions(),
    OpenAIResponses(),
    *methods(),
    OpenAIInputTokens(),
)
"""Ours."""


def speaker(headers: Mapping[str, str]) -> Dialect:
    """Who reads the key and writes the errors of a request to a route that belongs to no dialect: Anthropic's clients
    send their version with everything, Google's their key by a name of its own. `headers` finds names in lower case."""
    if VERSION in headers:
        return MESSAGES
    return GOOGLE if KEY_HEADER in headers else DEFAULT


def google_speaker(headers: Mapping[str, str]) -> Dialect:
    """The same below `GOOGLE_ROOT`."""
    return GOOGLE


def lister(headers: Mapping[str, str]) -> ModelLister | None:
    """Who shows the models to such a caller; None: the page itself does, as OpenAI's."""
    if VERSION in headers:
        return models
    return google_models if KEY_HEADER in headers else None


GROUP = "ponder.dialects"
"""Entry points of this group add dialects: classes, called with nothing. A path of ours cannot be taken."""


PARTS = ("path", "key_hint", "key", "read", "error", "operation")
"""What a dialect has."""


def installed(pages: Iterable[str]) -> Sequence[Dialect]:
    """Ours, then those of installed packages by their names. `pages`: the paths that no dialect may have, `{}` around
    the part that varies. Raises `WrongSettings` for one whose path is taken or cannot be served, and `BrokenPlugin`."""
    found: list[Dialect] = [*DIALECTS]
    for _, one in plugins(pages):
        if isinstance(one, PonderError):
            raise one
        found.append(one)
    return found


def plugins(pages: Iterable[str]) -> Iterator[tuple[str, Dialect | PonderError]]:
    """The dialects of installed packages, by their names: what each is called, and itself, or why it cannot be had."""
    taken = dict.fromkeys(pages, "a page of the server's") | {one.path: "Ponder's own" for one in DIALECTS}
    for point in points(GROUP):
        who = named("dialect", point)
        try:
            dialect = _made(point)
            _check_path(dialect.path, who, taken)
        except PonderError as error:
            yield who, error
            continue
        taken[dialect.path] = f"that of {who}"
        yield who, dialect


def _made(point: EntryPoint) -> Dialect:
    """What an entry point names, made, once it has shown that it can describe itself. Raises `BrokenPlugin`."""
    kind = loaded("dialect", point)
    try:
        dialect: Dialect = kind()
        lacks = [part for part in PARTS if not hasattr(dialect, part)]
        if not lacks:
            dialect.operation()
    except Exception as error:  # it may be anybody's code
        raise broken("dialect", point, error) from error
    if lacks:
        raise BrokenPlugin(
            f"{named('dialect', point)} is no dialect: it has no {', '.join(lacks)}. Mend it, or uninstall the package"
        )
    return dialect


def _check_path(path: str, who: str, taken: Mapping[str, str]) -> None:
    """Raises `WrongSettings` for a path that is taken or cannot be served."""
    try:
        _, plain, varying = compile_path(path)
        wrong = not path.startswith("/") or bool(set("?#") & set(path)) or plain.count("{") != len(varying)
    except (AssertionError, ValueError, re.error):
        wrong = True
    if wrong:
        raise WrongSettings(
            f"{who} is served at {path!r}, which is no path: it begins with /, and what varies in it is a {{name}}"
        )
    fixed = tuple(page.partition("{")[0] for page in taken if "{" in page)
    owner = taken.get(path) or ("a page of the server's" if path.startswith(fixed) else None)
    if owner is None and "{" in path:
        owner = next((whose for one, whose in taken.items() if ByPath({path: whose})(one)), None)
    if owner is None and (found := ByPath(taken)(path)) is not None:
        owner = found[0]
    if owner is not None:
        raise WrongSettings(f"{who} is served at {path}, which is {owner}: uninstall one, or give it another path")
