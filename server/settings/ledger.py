"""Where the ledger lies, and how long its rows are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, SecretStr

from ponder.server.settings.table import Table

if TYPE_CHECKING:
    from ponder.metering.database import Database

NONE = "none"
"""The address of no ledger."""
MOST_DAYS = 36500


def _address(value: SecretStr) -> SecretStr:
    if value.get_secret_value() != NONE:
        # The library of databases is loaded where one is named: a key that is made need not wait for it.
        from ponder.metering.database import WrongAddress, database

        try:
            database(value.get_secret_value())
        except WrongAddress as error:
            raise ValueError(str(error)) from None
    return value


class LedgerSettings(Table):
    """The durable account of all requests."""

    url: Annotated[SecretStr, AfterValidator(_address)] | None = Field(
        default=None,
        description='Where it lies: "postgresql://user:password@host/database", "sqlite:////folder/ledger.db", or '
        '"none" for no ledger. Left out: ledger.db in the user\'s state folder.',
    )
    checkpoint: int = Field(
        default=256,
        ge=16,
        le=1 << 20,
        description="Tokens of each live chain that may be uncertain after a crash; it is written down twice as often.",
    )
    retention_days: int | None = Field(
        default=None, ge=1, le=MOST_DAYS, description="Days after which a row is deleted; left out: never."
    )

    @property
    def off(self) -> bool:
        """There is to be no ledger."""
        return self.url is not None and self.url.get_secret_value() == NONE

    @property
    def database(self) -> Database | None:
        """None where there is to be no ledger."""
        from ponder.metering.database import database

        address = None if self.url is None else self.url.get_secret_value()
        return None if address == NONE else database(address)
