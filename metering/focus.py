"""Costs in the FinOps FOCUS format, version 1.2: one charge for each day, key, model, price and kind of token.

The rules are those of the FOCUS specification (https://focus.finops.org/focus-specification/v1-2/) for its mandatory
columns and for the conditional ones that apply to usage with published prices. A charge is tokens times a unit price,
exactly; a row of the ledger is rounded to a nano-USD, so that sums differ by half a nano-USD a request at most.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Engine, func, select

from ponder.metering.report import DAY, Question, asked, bucket
from ponder.metering.tables import requests

NANO_PER_MILLION = Decimal(10) ** 15
"""Unit prices are nano-USD for a million tokens: so many are a USD for one."""
KINDS = {
    "input": (requests.c.prompt - requests.c.cached, requests.c.price_prompt),
    "cached input": (requests.c.cached, requests.c.price_cached),
    "thinking": (requests.c.thinking, requests.c.price_thinking),
    "answer": (requests.c.answer, requests.c.price_answer),
    "verifier": (requests.c.verifier_tokens, requests.c.price_verifier),
}
"""Kinds of tokens: how many of them a row has, and their unit price."""
COLUMNS = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingAccountType",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "SubAccountType",
    "Tags",
)


def charges(engine: Engine, question: Question, *, issuer: str = "Ponder") -> Iterator[dict[str, Any]]:
    """The charges of a time, by `COLUMNS`; what does not apply is None. `issuer` is who bills. Requests of models that
    had no price are no charges."""
    day = bucket(DAY).label("day")
    # One transaction, so that all kinds of tokens are of the same requests.
    with engine.connect() as connection:
        for kind, (tokens, price) in KINDS.items():
            groups = (day, requests.c.key, requests.c.model, requests.c.price_version, price.label("price"))
            places = [day, *groups[1:4], price]
            wanted = asked(question, select(*groups, func.sum(tokens).label("tokens")))
            wanted = wanted.where(requests.c.price_version.is_not(None)).group_by(*places).having(func.sum(tokens) > 0)
            for row in connection.execute(wanted.order_by(*places)).mappings():
                yield _charge(row, kind, issuer)


def _charge(row: Any, kind: str, issuer: str) -> dict[str, Any]:
    began = datetime.fromtimestamp(int(row["day"]) / 1000, UTC)
    month = began.replace(day=1)
    after = (month + timedelta(days=32)).replace(day=1)
    tokens, unit = int(row["tokens"]), Decimal(row["price"]) / NANO_PER_MILLION
    cost = _plain(tokens * unit)
    sku = f"{row['model']}/{kind.replace(' ', '-')}"
    return dict.fromkeys(COLUMNS) | {
        "BilledCost": cost,
        "BillingAccountId": issuer,
        "BillingAccountName": issuer,
        "BillingAccountType": "Server",
        "BillingCurrency": "USD",
        "BillingPeriodEnd": _moment(after),
        "BillingPeriodStart": _moment(month),
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{kind} tokens of {row['model']}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": _moment(began + timedelta(days=1)),
        "ChargePeriodStart": _moment(began),
        "ConsumedQuantity": tokens,
        "ConsumedUnit": "Tokens",
        "ContractedCost": cost,
        "ContractedUnitPrice": _plain(unit),
        "EffectiveCost": cost,
        "InvoiceIssuerName": issuer,
        "ListCost": cost,
        "ListUnitPrice": _plain(unit),
        "PricingCategory": "Standard",
        "PricingQuantity": tokens,
        "PricingUnit": "Tokens",
        "ProviderName": issuer,
        "PublisherName": "Ponder",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Ponder",
        "ServiceSubcategory": "Generative AI",
        "SkuId": sku,
        "SkuMeter": f"{kind} tokens",
        "SkuPriceId": f"{sku}@{row['price_version']}",
        "SubAccountId": row["key"],
        "SubAccountName": row["key"],
        "SubAccountType": "API key",
        "Tags": json.dumps({"model": row["model"], "price_version": row["price_version"]}),
    }


def _moment(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _plain(number: Decimal) -> str:
    """Without an exponent, which the format's numbers may have but spreadsheets read badly."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
