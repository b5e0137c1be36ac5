"""Ponder, a test-time compute inference server: the one package under which all of its folders are imported.

In the repository the folders lie at the top and this one links to them; installed they lie here. A module is never
loaded under two names: what was imported as `server` and as `ponder.server` would hold every class and every table
twice. So each folder's `__init__.py` asks `under_one_name` whether it has been found by the right name.
"""


def under_one_name(name: str) -> None:
    """Called by the `__init__.py` of a folder with its `__name__`. Raises `ImportError` for a name outside `ponder`."""
    if not name.startswith("ponder."):
        raise ImportError(f"{name} is a part of Ponder: import it as ponder.{name}", name=name)
