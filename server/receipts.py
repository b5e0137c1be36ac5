"""Receipts of this server's requests: signed when a request is over, and shown again by `GET /v1/receipts/{id}`.

What a receipt is, and what it proves, `docs/metering.md` says.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from ponder.compute.budget import Spending
from ponder.compute.errors import NotFound
from ponder.compute.usage import Usage
from ponder.metering.database import WrongAddress
from ponder.metering.ledger import Ledger
from ponder.metering.receipt_keys import NoKey, listed, others_may_read, remember, signer_of, usual_place
from ponder.metering.receipts import Signer, as_jwk, chain_of, claims, key_id, read
from ponder.server.auth.access import Caller
from ponder.server.plan import ResolvedRequest
from ponder.server.settings.receipts import ReceiptSettings
from ponder.server.usage import UsageReports

log = logging.getLogger("ponder.server")


class ReceiptKey(BaseModel):
    """A public key, as RFC 8037 writes it, and as OpenSSL does."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str
    kid: str = Field(description="Its id, which stands in the head of each receipt that it has signed")
    alg: Literal["EdDSA"]
    use: Literal["sig"]
    pem: str


class ReceiptKeys(BaseModel):
    """A JWK set: the key of this server first, then all that have ever signed receipts of its ledger."""

    keys: list[ReceiptKey]


class ToldReceipt(BaseModel):
    """The receipt of a request."""

    id: str
    object: Literal["receipt"] = "receipt"
    receipt: str = Field(description="A JSON Web Signature in its compact form")
    claims: dict[str, Any] = Field(description="What it says")
    salt: str | None = Field(
        default=None,
        description="Of the hash chain, in hexadecimal digits: for keys with the scope reveal, from a server that has "
        "the key which signed it; else left out",
    )


class Receipt:
    """The receipt of one request that runs."""

    def __init__(self, signer: Signer, request: str, resolved: ResolvedRequest, spendings: Sequence[Spending]) -> None:
        self._signer, self._request, self._resolved, self._spendings = signer, request, resolved, spendings
        self.salt = signer.salt(request)
        self._signed: str | None = None
        for spending, plan in zip(spendings, resolved.plans, strict=True):
            spending.hash_ids(self.salt, keep=plan.keep_text)

    def signed(self, usage: Callable[[], Usage]) -> str | None:
        """Called when nothing is made any more: the receipt over the usage of the request, the same each time. None
        where nothing was begun."""
        if self._signed is None and (calls := sum(len(spending.reservations) for spending in self._spendings)):
            resolved = self._resolved
            told = claims(
                self._request,
                key=resolved.owner,
                model=resolved.base,
                strategy=resolved.strategy,
                usage=usage(),
                price=resolved.price,
                calls=calls,
                chain=chain_of(self.salt, self._spendings),
                at=int(time.time()),
            )
            self._signed = self._signer.sign(told)
        return self._signed


class Receipts:
    """Begins receipts, and the endpoints."""

    def __init__(self, signer: Signer | None, reports: UsageReports) -> None:
        """`signer`: None where there are to be no receipts."""
        self._signer, self._reports = signer, reports

    def begin(self, request: str, resolved: ResolvedRequest, spendings: Sequence[Spending]) -> Receipt | None:
        """The receipt of a request about to run. None where this server makes none, or the numbers that its caller may
        see are coarse: a receipt has exact ones."""
        if self._signer is None or resolved.coarse is not None:
            return None
        return Receipt(self._signer, request, resolved, spendings)

    async def receipt_keys(self) -> ReceiptKeys:
        """Lists the public keys that receipts can be checked with."""
        keys = [] if self._signer is None else [self._signer.public]
        if self._reports.keeps:
            known = {key_id(key) for key in keys}
            keys += [key for key in await self._reports.read(listed) if key_id(key) not in known]
        return ReceiptKeys(keys=[ReceiptKey.model_validate(as_jwk(key)) for key in keys])

    async def receipt(self, id: str, key: Caller) -> ToldReceipt:
        """Gives the receipt of a request again, by the `x-request-id` of its answer. A key sees its own, with the scope
        `admin` all."""
        row = await self._reports.row(id, key)
        if row["receipt"] is None:
            raise NotFound(
                "this request has no receipt: it runs still, was never begun, its server died or makes none, or the "
                "numbers of its key are coarse",
                param="id",
                code="receipt_not_found",
            )
        signed_by, told = read(row["receipt"])
        salt = None
        if key.may("reveal") and self._signer is not None and self._signer.id == signed_by:
            salt = self._signer.salt(row["id"]).hex()
        return ToldReceipt(id=row["id"], receipt=row["receipt"], claims=told, salt=salt)


async def signing(settings: ReceiptSettings, ledger: Ledger | None) -> Signer | None:
    """The signer of a server that is starting, its public key listed in the ledger; None where there are to be no
    receipts. Raises `NoKey` where a file is named that cannot be used."""
    if not settings.enabled:
        return None
    try:
        file = settings.key or usual_place()
        signer, made = await asyncio.to_thread(signer_of, file)
    except (NoKey, WrongAddress) as error:
        if settings.key is not None:
            raise
        words = error.message if isinstance(error, NoKey) else str(error)
        log.warning("no receipts, for there is no key to sign them with (%s); [receipts] key names a file", words)
        return None
    if ledger is not None:
        await asyncio.to_thread(remember, ledger.place, signer.public)
    if made:
        log.info("a key for receipts is made: %s", file)
    elif others_may_read(file):
        log.warning("%s: others can read the key that signs receipts; chmod 600 mends it", file)
    return signer
