"""The table of the APIs this server has. A new one is a package beside these and a line here, or another package with
an entry point."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points

from ponder.server.dialect import Dialect
from ponder.server.dialects.openai_chat.dialect import OpenAIChat
from ponder.server.settings import WrongSettings

DEFAULT = OpenAIChat()
"""Reads the keys and writes the errors of all routes that belong to no dialect (models, health, metrics, 404)."""
DIALECTS: Sequence[Dialect] = (DEFAULT,)
"""Ours."""

GROUP = "ponder.dialects"
"""Entry points of this group add dialects: classes, called with nothing. A path of ours cannot be taken."""


def installed(pages: Iterable[str]) -> Sequence[Dialect]:
    """Ours, then those of installed packages by their names. `pages`: the paths that no dialect may have, `{}` around
    the part that varies. Raises `WrongSettings` for one whose path is taken or cannot be served."""
    taken = dict.fromkeys(pages, "a page of the server's") | {one.path: "Ponder's own" for one in DIALECTS}
    fixed = tuple(path.partition("{")[0] for path in taken if "{" in path)
    found: list[Dialect] = [*DIALECTS]
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        dialect: Dialect = point.load()()
        path, package = dialect.path, point.dist.name if point.dist else point.value
        who = f"the dialect {point.name} of the package {package}"
        if not path.startswith("/") or set(path) & set("{}?#"):
            raise WrongSettings(f"{who} is served at {path!r}, which is no path: it begins with / and is fixed")
        owner = taken.get(path) or ("a page of the server's" if path.startswith(fixed) else None)
        if owner is not None:
            raise WrongSettings(f"{who} is served at {path}, which is {owner}: uninstall one, or give it another path")
        taken[path] = f"that of the dialect {point.name} of the package {package}"
        found.append(dialect)
    return found
