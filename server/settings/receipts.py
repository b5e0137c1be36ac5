"""Whether requests get receipts, and where the key is that signs them."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from ponder.server.settings.table import Table


class ReceiptSettings(Table):
    """Signed receipts of what requests used."""

    enabled: bool = Field(
        default=True, description="Sign a receipt for each request: thinking.receipt, GET /v1/receipts/{id}."
    )
    key: Path | None = Field(
        default=None,
        description="File of the private key (Ed25519, PEM), which is made where it is not there. Left out: "
        "receipts.key in the user's state folder.",
    )
