"""The one place that reads configuration: flags, then the environment, then a TOML file, then the defaults.

What is wrong is said in one line each: where it was found, what was wrong with it, and what may stand there instead.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from inspect import isclass
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import SettingsConfigDict, SettingsError

from ponder.server.settings import PREFIX, Settings, WrongSettings, nearest

DEFAULT_FILE = Path("ponder.toml")
NO_SETTINGS = frozenset({"CONFIG", "API_KEY", "URL"})
"""Read elsewhere: the file itself, and what `ponder ask` takes from the environment."""


def config_file(flag: str | Path | None = None) -> Path | None:
    """The file to read: the flag, else `PONDER_CONFIG`, else `ponder.toml` in this folder, else none."""
    named = flag or os.environ.get(f"{PREFIX}CONFIG")
    if named:
        return Path(named)
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def load(config: str | Path | None = None, **flags: Any) -> Settings:
    """The settings of flags (those that are not None), environment and file. Raises `WrongSettings`."""
    file = config_file(config)
    if file is not None and not file.is_file():
        raise WrongSettings(f"{file}: there is no such file; ponder.example.toml shows what may stand in one")

    class Configured(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    given = {name: value for name, value in flags.items() if value is not None}
    _check_environment()
    try:
        return Configured(**given)
    except ValidationError as error:
        lines = [_words(_place(e), e["type"], e["msg"], e.get("input"), given, file) for e in error.errors()]
        raise WrongSettings("\n".join(dict.fromkeys(lines))) from None
    except tomllib.TOMLDecodeError as error:
        raise WrongSettings(f"{file}: not TOML: {error}") from None
    except UnicodeDecodeError:
        raise WrongSettings(f"{file}: not UTF-8 text") from None
    except SettingsError as error:
        raise WrongSettings(f"environment: {error}; lists and tables are written as JSON") from None


def _check_environment() -> None:
    """A variable that nearly names a setting would be ignored in silence; others may be anybody's."""
    for variable in os.environ:
        name = variable.removeprefix(PREFIX).split("__")[0]
        if not variable.startswith(PREFIX) or name in NO_SETTINGS or name.lower() in Settings.model_fields:
            continue
        if near := nearest(name.lower(), Settings.model_fields, cutoff=0.7):
            raise WrongSettings(f"{variable}: there is no such setting{near}")


def _table_in(annotation: object) -> type[BaseModel] | None:
    """The table that a field's annotation leads to, through lists, dicts and unions."""
    if isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next((table for arg in get_args(annotation) if (table := _table_in(arg))), None)


def _names_at(path: Sequence[int | str]) -> list[str]:
    """The names a table at this place of the configuration knows."""
    table: type[BaseModel] = Settings
    for part in path:
        field = table.model_fields.get(str(part))
        table = (field and _table_in(field.annotation)) or table
    return list(table.model_fields)


def _place(error: ErrorDetails) -> tuple[int | str, ...]:
    """Where something is wrong, down to the option of an engine."""
    option = error.get("ctx", {}).get("option")
    return error["loc"] if option is None else (*error["loc"], option)


def _words(
    path: tuple[int | str, ...], kind: str, message: str, value: object, flags: Mapping[str, Any], file: Path | None
) -> str:
    """One line on one thing that is wrong: where it was found, and how it is."""
    path = tuple(p for i, p in enumerate(path) if not (i and path[i - 1] == "profile" and p in ("name", "table")))
    message = message.removeprefix("Value error, ").removeprefix("Input ")
    if not path:
        return f"{file}: {message}" if file else message
    place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).removeprefix(".")
    top = str(path[0])
    variables = [v for v in os.environ if v.lower().startswith(f"{PREFIX}{top}".lower())]
    if top in flags:
        source = "command line"
    elif variables:
        source = variables[0]
    else:
        source = str(file) if file else "settings"
    if kind == "extra_forbidden":
        return f"{source}: {place}: there is no such setting{nearest(str(path[-1]), _names_at(path[:-1]))}"
    if kind == "missing":
        return f"{source}: {place} is missing"
    simple = (
        isinstance(value, str | int | float)
        and path[-1] not in ("hash", "keys", "prm", "prm_key", "url", "secret")
        and "hash" not in path
        and "replicas" not in path
    )
    shown = f" {cast('Any', value)!r}" if simple else ""
    return f"{source}: {place}{shown}: {message}"
