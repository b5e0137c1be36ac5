"""API keys over HTTP, for keys with the scope `admin`: `GET` and `POST /v1/keys`, and one of them by its id.

Those of the configuration are listed, and changed there. Those of the ledger's database are made, changed, rotated and
revoked here; each time the audit is told who did it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, Field, ValidationError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response

from ponder.compute.errors import NotFound, NotPermitted, RequestError, Unavailable
from ponder.metering import api_keys
from ponder.metering.api_keys import KeyEnded, NameTaken, NoSuchKey, StoredKey
from ponder.metering.migrate import OtherVersion
from ponder.metering.upkeep import NoSuchLedger
from ponder.server.auth import keys as secret_keys
from ponder.server.auth.access import Caller
from ponder.server.auth.keys import ANYONE, Key, Keyring
from ponder.server.auth.stored_keys import StoredKeys, as_json
from ponder.server.http.body import read
from ponder.server.query import number, place
from ponder.server.settings import KeySettings, KeyTerms, Limits, Scope
from ponder.server.settings.keys import NAME
from ponder.server.settings.table import Table
from ponder.server.strict_json import loads_object
from ponder.server.validation import wrong

T = TypeVar("T")
Wish = TypeVar("Wish", bound=BaseModel)

MOST = 1000
"""Keys of a page."""
USUAL: frozenset[Scope] = frozenset({"infer", "usage"})
SHOWING: frozenset[Scope] = frozenset({"reveal", "trace"})
"""Scopes that only a key gives away which has them: an administrator need not be one who sees thoughts."""
LONGEST_GRACE = 30 * 86_400
"""Seconds."""
LATEST = 253_402_300_799
"""The last second of the year 9999."""
HIDDEN = {"cache-control": "no-store"}
"""Headers of an answer with a secret in it."""


class ApiKey(BaseModel):
    """A key, without its secret. Times are Unix seconds."""

    object: Literal["api_key"] = "api_key"
    id: str
    name: str
    owner: str | None = Field(description="Who answers for it")
    scopes: list[str]
    limits: dict[str, Any] = Field(description="What the configuration can say of a key; what is left out is as usual")
    status: Literal["active", "expired", "revoked"]
    source: Literal["ledger", "configuration"] = Field(
        description="Where it stands; one of the configuration is changed there"
    )
    created_at: int | None
    expires_at: int | None
    revoked_at: int | None


class NewApiKey(ApiKey):
    """A key with a secret that was made just now."""

    key: str = Field(description="The secret. It is shown once and kept nowhere")


class ApiKeys(BaseModel):
    """A page of keys: those of the configuration, then those of the ledger, the oldest first."""

    object: Literal["list"] = "list"
    data: list[ApiKey]
    has_more: bool


Owner = Annotated[str | None, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""Without control characters: not every database keeps them."""


class KeyWish(Table):
    """A key that is to be made."""

    name: str = Field(pattern=NAME, description="What it is called; no other key ever is")
    owner: Owner = Field(default=None, description="Who answers for it: a person, a team")
    scopes: frozenset[Scope] = Field(default=USUAL, description="What it may do")
    expires_at: int | None = Field(default=None, ge=0, le=LATEST, description="Unix seconds; left out: never")
    limits: KeyTerms = Field(default=KeyTerms(), description="As in the configuration")


class KeyChange(Table):
    """What is to be another way; what is left out stays as it is."""

    owner: Owner = Field(default=None, description="Who answers for it: a person, a team")
    scopes: frozenset[Scope] = Field(default=USUAL, description="What it may do")
    expires_at: int | None = Field(default=None, ge=0, le=LATEST, description="Unix seconds; null: never")
    limits: KeyTerms = Field(default=KeyTerms(), description="All of them: those that are left out are gone")


class Rotation(Table):
    """How a secret is replaced."""

    grace: float = Field(
        default=0, ge=0, le=LONGEST_GRACE, description="Seconds for which the secret before may be used yet"
    )


class KeysPage:
    """The endpoints."""

    def __init__(
        self, keyring: Keyring, stored: StoredKeys | None, models: Sequence[str], limits: Callable[[], Limits]
    ) -> None:
        """`models` are those that are served, `limits` the bounds on a body."""
        self._keyring, self._stored, self._models, self._limits = keyring, stored, frozenset(models), limits

    async def api_keys(self, limit: str | None = None, after: str | None = None) -> ApiKeys:
        """Lists the keys of the configuration and of the ledger. `after`: the id of the last key of the page before."""
        size = number("limit", limit, 100, least=1, most=MOST)
        every = [*map(_configured, self._keyring.configured), *map(told, self._stored.known if self._stored else ())]
        if after is not None:
            every = every[place("after", after, [key.id for key in every], "key") + 1 :]
        return ApiKeys(data=every[:size], has_more=len(every) > size)

    async def create_api_key(self, request: Request, key: Caller, response: Response) -> NewApiKey:
        """Makes a key of the ledger and shows its secret, once. All servers on the ledger know it within a second."""
        stored = self._changeable(key)
        wish = await self._read(request, KeyWish)
        may_give(key, wish.scopes)
        self._may_be(wish.expires_at, wish.limits)
        if wish.name in {one.name for one in self._keyring.configured}:
            raise RequestError("a key of the configuration has this name", param="name", code="name_taken")
        secret, hash = secret_keys.make()
        id = secret_keys.new_id()
        fits(id=id, hash=hash, name=wish.name, scopes=wish.scopes, limits=as_json(wish.limits))
        made = await self._act(
            lambda engine: api_keys.create(
                engine,
                who(key),
                id=id,
                hash=hash,
                name=wish.name,
                owner=wish.owner,
                scopes=sorted(wish.scopes),
                limits=as_json(wish.limits),
                expires_ms=None if wish.expires_at is None else wish.expires_at * 1000,
            ),
            stored,
        )
        response.headers.update(HIDDEN)
        return NewApiKey(**told(made).model_dump(), key=secret)

    async def api_key(self, id: str) -> ApiKey:
        """Finds a key."""
        for one in self._keyring.configured:
            if one.identity == id:
                return _configured(one)
        return told(self._one(id))

    async def change_api_key(self, id: str, request: Request, key: Caller) -> ApiKey:
        """Changes the owner, the scopes, the limits or the end of a key of the ledger."""
        stored, before = self._changeable(key), self._one(id)
        wish = await self._read(request, KeyChange)
        given = wish.model_fields_set
        scopes = wish.scopes if "scopes" in given else frozenset(cast("tuple[Scope, ...]", before.scopes))
        limits = as_json(wish.limits) if "limits" in given else before.limits
        may_give(key, scopes - set(before.scopes))
        self._may_be(wish.expires_at, wish.limits)
        fits(id=id, hash=next(iter(before.hashes)), name=before.name, scopes=scopes, limits=limits)
        values: dict[str, Any] = {
            "owner": wish.owner,
            "scopes": sorted(scopes),
            "limits": limits,
            "expires_ms": None if wish.expires_at is None else wish.expires_at * 1000,
        }
        columns = {"expires_at": "expires_ms"}
        wanted = {column: values[column] for name in given if (column := columns.get(name, name))}
        return told(await self._act(lambda engine: api_keys.change(engine, who(key), id, wanted), stored))

    async def revoke_api_key(self, id: str, key: Caller) -> ApiKey:
        """Ends a key of the ledger for ever. All servers on the ledger refuse it within a second."""
        stored = self._changeable(key)
        self._one(id)
        return told(await self._act(lambda engine: api_keys.revoke(engine, who(key), id), stored))

    async def rotate_api_key(self, id: str, request: Request, key: Caller, response: Response) -> NewApiKey:
        """Gives a key of the ledger another secret and shows it, once; it stays the same key."""
        stored, before = self._changeable(key), self._one(id)
        wish = await self._read(request, Rotation)
        may_give(key, frozenset(cast("tuple[Scope, ...]", before.scopes)))
        secret, hash = secret_keys.make()
        made = await self._act(
            lambda engine: api_keys.rotate(engine, who(key), id, hash, wish.grace),
            stored,
        )
        response.headers.update(HIDDEN)
        return NewApiKey(**told(made).model_dump(), key=secret)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _changeable(self, key: Key) -> StoredKeys:
        """Where keys can be changed. Raises `NotPermitted` and `NotFound`."""
        if key is ANYONE:
            raise NotPermitted(
                "the first key of a server is made on its machine: `ponder keys create NAME --scopes admin`",
                code="not_permitted",
            )
        if self._stored is None:
            raise NotFound("this server keeps no ledger ([ledger] url is none)", code="no_ledger")
        return self._stored

    def _one(self, id: str) -> StoredKey:
        """A key of the ledger, as last seen. Raises `RequestError`."""
        if any(one.identity == id for one in self._keyring.configured):
            raise RequestError(
                "this key stands in the configuration: change it there, and have that read again (`ponder reload`)",
                param="id",
                code="configured_key",
            )
        for one in self._stored.known if self._stored else ():
            if one.id == id:
                return one
        raise NotFound("there is no key with that id", param="id", code="key_not_found")

    async def _read(self, request: Request, kind: type[Wish]) -> Wish:
        """The body as what it should be. Raises `RequestError`."""
        limits = self._limits()
        value = loads_object(await read(request, limits), limits.json_depth, limits.json_values)
        # As JSON, not as Python's values: true is no number there, and a list may be a set.
        try:
            return kind.model_validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            raise wrong(error, value) from None

    def _may_be(self, expires_at: int | None, limits: KeyTerms) -> None:
        """Raises `RequestError`."""
        if expires_at is not None and expires_at <= time.time():
            raise RequestError("expires_at is past", param="expires_at", code="invalid_value")
        if (limits.models or frozenset()) - self._models:
            raise RequestError(
                "limits.models names a model that is not served", param="limits.models", code="model_not_found"
            )

    async def _act(self, work: Callable[[Engine], T], stored: StoredKeys) -> T:
        """Raises `RequestError`, and `Unavailable` where the database is away."""
        try:
            return await stored.act(work)
        except NoSuchKey as error:
            raise NotFound(str(error), param="id", code="key_not_found") from None
        except NameTaken as error:
            raise RequestError(str(error), param="name", code="name_taken") from None
        except KeyEnded as error:
            raise RequestError(str(error), param="id", code="key_revoked") from None
        except (SQLAlchemyError, OtherVersion, NoSuchLedger, OSError):
            raise Unavailable(
                "the ledger of this server cannot be written to: try again later",
                code="ledger_unavailable",
                retry_after=5,
            ) from None


def may_give(key: Key, scopes: frozenset[Scope]) -> None:
    """Raises `NotPermitted` where a key would get more of what others ask than the one that makes it has."""
    if more := (scopes & SHOWING) - key.scopes:
        raise NotPermitted(
            f"the scope {min(more)} is given by a key that has it, or by `ponder keys` on the server's machine",
            param="scopes",
            code="missing_scope",
        )


def fits(**words: Any) -> None:
    """Raises `RequestError` where a key as a whole cannot be meant."""
    limits: Mapping[str, Any] = words.pop("limits")
    try:
        KeySettings.model_validate({**limits, **words})
    except ValidationError as error:
        raise wrong(error, {}, "limits") from None


def who(key: Key) -> str:
    """A caller in a row of the audit."""
    return api_keys.subject(key.name, key.id)


def told(key: StoredKey) -> ApiKey:
    """A key of the ledger, as it is shown."""
    expired = key.expires_ms is not None and key.expires_ms <= time.time() * 1000
    return ApiKey(
        id=key.id,
        name=key.name,
        owner=key.owner,
        scopes=list(key.scopes),
        limits=dict(key.limits),
        status="revoked" if key.revoked_ms is not None else "expired" if expired else "active",
        source="ledger",
        created_at=key.created_ms // 1000,
        expires_at=None if key.expires_ms is None else key.expires_ms // 1000,
        revoked_at=None if key.revoked_ms is None else key.revoked_ms // 1000,
    )


def _configured(key: KeySettings) -> ApiKey:
    return ApiKey(
        id=key.identity,
        name=key.name,
        owner=None,
        scopes=sorted(key.scopes),
        limits=as_json(key),
        status="active",
        source="configuration",
        created_at=None,
        expires_at=None,
        revoked_at=None,
    )


@cache
def body_of(kind: type[BaseModel]) -> dict[str, Any]:
    """The body of a request, as FastAPI's routes are told of one that they do not read themselves."""
    schema = kind.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(schema)}}}}


def _inlined(schema: Any, parts: Mapping[str, Any] | None = None) -> Any:
    """A JSON schema without `$defs`."""
    if isinstance(schema, list):
        return [_inlined(one, parts) for one in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    given = cast("dict[str, Any]", schema)
    parts = given.get("$defs", parts) if parts is None else parts
    found = {name: _inlined(value, parts) for name, value in given.items() if name not in ("$defs", "$ref")}
    if "$ref" in given and parts is not None:
        found = _inlined(parts[given["$ref"].rpartition("/")[2]], parts) | found
    return found
