"""`ponder usage` as it is typed, and the FOCUS format against its rules."""

from __future__ import annotations

import asyncio
import csv
import json
from decimal import Decimal
from io import StringIO
from pathlib import Path

import pytest

from ponder.metering.database import database
from ponder.metering.focus import COLUMNS, charges
from ponder.metering.report import Question
from tests.metering.ledgers import put, rows
from tests.server.test_ledger_command import ponder
from tests.server.test_usage import used

MANDATORY = {
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
}
"""Columns that FOCUS 1.2 demands of every data set."""
MAY_BE_EMPTY = {"ChargeClass"}
"""Of those that are here: a correction alone has one."""


@pytest.fixture
def filled(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two requests of alice's on one day, one of bob's on the next."""

    async def go() -> None:
        async with used(address):
            pass

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PONDER_LEDGER__URL", address)
    asyncio.run(go())
    return address


def test_usage_is_shown_in_all_its_forms(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    cost = sum(row["cost_nano_usd"] for row in rows(filled).values())
    shown = ponder(capsys, "usage").splitlines()
    head = ["day", "key", "model", "requests", "prompt", "cached", "thinking", "answer", "discarded", "cost USD"]
    assert shown[0].split() == " ".join(head).split()
    assert [line.split()[:4] for line in shown[1:]] == [
        ["2026-01-01", "alice", "demo", "2"],
        ["2026-01-02", "bob", "demo", "1"],
    ]
    assert sum(Decimal(line.split()[-1]) for line in shown[1:]) == pytest.approx(
        Decimal(cost) / 10**9, abs=Decimal("1e-6")
    )
    lines = [json.loads(line) for line in ponder(capsys, "usage", "--by", "key", "--format", "json").splitlines()]
    assert [(line["key"], line["requests"]) for line in lines] == [("alice", 2), ("bob", 1)]
    table = list(csv.DictReader(StringIO(ponder(capsys, "usage", "--by", "", "--format", "csv"))))
    assert [int(line["cost_nano_usd"]) for line in table] == [cost]
    late = ponder(capsys, "usage", "--start", "2026-01-02", "--by", "key", "--format", "csv").splitlines()
    assert late[1].startswith("bob,1,")
    assert "--by takes" in ponder(capsys, "usage", "--by", "colour", status=1)
    assert "it is one of" in ponder(capsys, "usage", "--format", "xml", status=2)


def test_focus_keeps_the_rules_of_its_version_and_its_sum_is_the_ledger_s(
    filled: str, capsys: pytest.CaptureFixture[str]
) -> None:
    charges = list(csv.DictReader(StringIO(ponder(capsys, "usage", "--format", "focus"))))
    assert MANDATORY <= set(COLUMNS) == charges[0].keys()
    for charge in charges:
        assert all(charge[column] for column in MANDATORY - MAY_BE_EMPTY), charge
        quantity, unit = Decimal(charge["PricingQuantity"]), Decimal(charge["ListUnitPrice"])
        for column in ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"):
            assert Decimal(charge[column]) == quantity * unit
        assert charge["ChargePeriodStart"] < charge["ChargePeriodEnd"]
        assert charge["BillingPeriodStart"] == "2026-01-01T00:00:00Z"
        assert charge["BillingPeriodEnd"] == "2026-02-01T00:00:00Z"
        assert (charge["ChargeCategory"], charge["BillingCurrency"]) == ("Usage", "USD")
        assert all(isinstance(value, str) for value in json.loads(charge["Tags"]).values())
    sku = [(c["ChargePeriodStart"], c["SubAccountId"], c["SkuPriceId"]) for c in charges]
    assert len(set(sku)) == len(sku)
    found = rows(filled).values()
    cost = sum(row["cost_nano_usd"] for row in found)
    assert abs(sum(Decimal(c["BilledCost"]) for c in charges) * 10**9 - cost) <= Decimal(len(found)) / 2


def test_all_kinds_of_tokens_in_focus_are_of_the_same_requests(filled: str) -> None:
    """Whatever is settled while they are read."""
    before = rows(filled).values()
    engine = database(filled).engine(reads=True)
    reading = charges(engine, Question())
    found = [next(reading)]
    put(filled, 1, price_version="v", price_prompt=1, price_thinking=1, thinking=999, prompt=9)
    found += reading
    engine.dispose()
    assert {charge["SkuPriceId"].rpartition("@")[2] for charge in found} == {row["price_version"] for row in before}
    thinking = sum(charge["ConsumedQuantity"] for charge in found if charge["SkuMeter"] == "thinking tokens")
    assert thinking == sum(row["thinking"] for row in before)
