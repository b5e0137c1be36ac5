"""What a command that asks a running server was told: which server, which model, which questions, which plans."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any, cast

from ponder.clients.ask import URL
from ponder.clients.client import AsyncClient
from ponder.evaluation.asking.ask import connected
from ponder.evaluation.asking.questions import Questions, read

LISTED = 16
"""Names that are told where one is none of them."""


class CannotDo(Exception):
    """A command line that cannot be meant; the message says what to do."""


def questions(options: argparse.Namespace) -> Questions:
    """Those of the file. Raises `WrongQuestions`."""
    return read(options.questions).first(options.max_questions)


def wish(text: str, where: str) -> dict[str, Any]:
    """A strategy or a verifier with its parameters: `majority_vote:n=16:mode=rounds`, or JSON as a request has it."""
    if text.startswith("{"):
        try:
            found: object = json.loads(text)
        except json.JSONDecodeError as error:
            raise CannotDo(f"{where} {text}: no JSON ({error})") from None
        if not isinstance(found, dict) or not isinstance(cast("dict[str, Any]", found).get("name"), str):
            raise CannotDo(f'{where} {text}: an object with "name"')
        return cast("dict[str, Any]", found)
    name, *fields = text.split(":")
    told: dict[str, Any] = {"name": name}
    for field in fields:
        parameter, equals, value = field.partition("=")
        if not equals or not parameter:
            raise CannotDo(f"{where} {text}: a parameter is NAME=VALUE, as in majority_vote:n=16")
        told[parameter] = _value(value)
    return told


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def client(options: argparse.Namespace) -> AsyncClient:
    """Of the server that is meant."""
    url = options.url or os.environ.get("PONDER_URL") or URL
    return connected(url, os.environ.get("PONDER_API_KEY"), options.concurrency)


async def model(asked: AsyncClient, named: str | None) -> str:
    """The model's name as the server lists it."""
    listed = [one.id for one in await asked.models()]
    if named is None and listed:
        return listed[0]
    if named not in listed:
        raise CannotDo(f"--model {named}: the server lists {', '.join(listed[:LISTED]) or 'no model'}")
    return named


async def offered(asked: AsyncClient, *wishes: dict[str, Any]) -> None:
    """Raises `CannotDo` for a strategy that the server does not list."""
    listed = [one.name for one in await asked.strategies()]
    for one in wishes:
        if one["name"] not in listed:
            raise CannotDo(f"--strategies {one['name']}: the server lists {', '.join(listed)}")
