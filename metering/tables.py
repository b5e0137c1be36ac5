"""The tables of the ledger, the same in SQLite and PostgreSQL: a row for each request, each server process, each API
key that is not in the configuration, each act of an administrator, each key that has signed receipts, each response
and each trace that is kept, and rows for what API keys have taken of their limits.

Tokens are whole numbers, times milliseconds since 1970 (UTC), money nano-USD. There is no text of a request or an
answer in them: `user` and `metadata` are what a caller wants to find in its bill. What stands here is the newest
version; `migrations/versions` has the way to it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Double, Index, Integer, LargeBinary, MetaData, Table, Text

from ponder.compute.usage import Usage

metadata = MetaData()


def _count(name: str) -> Column[Any]:
    return Column(name, BigInteger, nullable=False, server_default="0")


requests = Table(
    "requests",
    metadata,
    Column("id", Text, primary_key=True),
    # Who writes the row: a server process, and its epoch then.
    Column("owner", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("begun_ms", BigInteger, nullable=False),
    # Empty while the request is open.
    Column("settled_ms", BigInteger),
    # The name of the API key, and which key it is: a name may come to mean another key, an id never does. Empty: the
    # row is older than ids, and no key had the name when they came.
    Column("key", Text, nullable=False),
    Column("key_id", Text, nullable=False, server_default=""),
    Column("model", Text, nullable=False),
    Column("strategy", Text, nullable=False),
    Column("verifier", Text),
    # Hidden tokens: asked for where the request said a number, and granted.
    Column("budget_asked", BigInteger),
    Column("budget", BigInteger, nullable=False),
    # Hidden and visible tokens at most.
    Column("reserved", BigInteger, nullable=False),
    # Chains that were being written at the last checkpoint.
    _count("chains"),
    _count("prompt"),
    # Of the prompt, from the prefix cache when the first chain read it.
    _count("cached"),
    _count("thinking"),
    _count("answer"),
    # Read by a reward model.
    _count("verifier_tokens"),
    # Of thinking: chains that are no part of what was answered.
    _count("discarded"),
    # Made a second time after a model went away: billed to nobody.
    _count("wasted"),
    # Chains of which the end of a call was not seen: what was made of them beside the counts here is not known.
    _count("unseen_calls"),
    _count("samples"),
    # Tokens that may have been made behind the last checkpoint of a request whose server died: at most so many.
    _count("uncertain"),
    Column("stopped_by", Text),
    Column("outcome", Text),
    Column("seconds", Double),
    Column("user", Text),
    Column("metadata", JSON(none_as_null=True)),
    _count("cost_nano_usd"),
    # The price book, and nano-USD for a million tokens of each kind in it; empty where the model had no price.
    Column("price_version", Text),
    Column("price_prompt", BigInteger),
    Column("price_cached", BigInteger),
    Column("price_thinking", BigInteger),
    Column("price_answer", BigInteger),
    Column("price_verifier", BigInteger),
    # Signed when it was settled by the server that ran it; empty where it made none.
    Column("receipt", Text),
    Index("requests_by_time", "begun_ms"),
    Index("requests_by_key", "key", "begun_ms"),
    Index("requests_by_key_id", "key_id", "begun_ms"),
    Index("requests_by_user", "user"),
    Index("requests_by_owner", "owner", "settled_ms"),
)

servers = Table(
    "servers",
    metadata,
    Column("id", Text, primary_key=True),
    # A process writes only while this is the epoch it knows: who declares it dead adds one.
    Column("epoch", Integer, nullable=False),
    # Where it runs, as far as processes can see each other, and which process it is there.
    Column("machine", Text, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("started", BigInteger, nullable=False),
    # Tokens of each live chain of its requests that may be in no row yet.
    Column("checkpoint", BigInteger, nullable=False, server_default="256"),
    # Changed at least every few seconds by a process that lives. Empty `ended_ms`: nobody has seen it end.
    Column("seen_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    # No row is ever deleted: a name is given once.
    Column("name", Text, nullable=False, unique=True),
    # Who answers for it: a person, a team.
    Column("owner", Text),
    # Words, and what else the configuration can say of a key.
    Column("scopes", JSON, nullable=False),
    Column("limits", JSON, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
)

key_hashes = Table(
    "key_hashes",
    metadata,
    # Of a secret of the key; empty `until_ms`: it is the newest.
    Column("hash", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("until_ms", BigInteger),
)

versions = Table(
    "versions",
    metadata,
    # What servers remember of the database, and how often that was changed.
    Column("id", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    # Who did what to what; the details have no secrets.
    Column("who", Text, nullable=False),
    Column("act", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("details", JSON, nullable=False),
    Index("audit_by_time", "at_ms"),
)

idempotency = Table(
    "idempotency",
    metadata,
    # A hash of the API key's id and what the caller sent as `Idempotency-Key`.
    Column("id", Text, primary_key=True),
    # Its run: the id of the request, and the server process.
    Column("request", Text, nullable=False),
    Column("owner", Text, nullable=False),
    # The id of the API key.
    Column("key", Text, nullable=False),
    # Which secret the two below are made with.
    Column("secret", Text, nullable=False),
    # Of the body, keyed.
    Column("fingerprint", LargeBinary, nullable=False),
    # Grows while somebody waits for it on another server.
    _count("wanted"),
    # Empty while it runs; then answered, or lost: billed, and without an answer.
    Column("outcome", Text),
    # Encrypted; empty where none is kept.
    Column("answer", LargeBinary),
    Column("answer_until_ms", BigInteger),
    # When the key is forgotten.
    Column("until_ms", BigInteger, nullable=False),
    Index("idempotency_by_end", "until_ms"),
    Index("idempotency_by_answer", "answer_until_ms"),
    Index("idempotency_by_request", "request"),
)

responses = Table(
    "responses",
    metadata,
    Column("id", Text, primary_key=True),
    # The id of its request, that of a row in the ledger.
    Column("request", Text, nullable=False),
    # The id of the API key, and the caller's own word for a user, by which it is erased.
    Column("key", Text, nullable=False),
    Column("user", Text),
    # The server process that runs it, or has, and its epoch then.
    Column("owner", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    # It runs behind its caller: 0 or 1.
    Column("background", Integer, nullable=False),
    # queued, in_progress; then, for good: completed, incomplete, failed, cancelled.
    Column("status", Text, nullable=False),
    # Which secret it is sealed with; what was asked and what came of it. Empty while it has not begun.
    Column("secret", Text, nullable=False),
    Column("content", LargeBinary),
    # Events of its stream that are kept.
    _count("events"),
    Column("begun_ms", BigInteger, nullable=False),
    # When it is forgotten.
    Column("until_ms", BigInteger, nullable=False),
    Index("responses_by_end", "until_ms"),
    Index("responses_by_key", "key", "begun_ms"),
    Index("responses_by_owner", "owner", "status"),
    Index("responses_by_user", "user"),
)

response_events = Table(
    "response_events",
    metadata,
    Column("response", Text, primary_key=True),
    # Of the first event that is in it, from 0.
    Column("number", BigInteger, primary_key=True),
    # Sealed.
    Column("content", LargeBinary, nullable=False),
)

traces = Table(
    "traces",
    metadata,
    # The id of its request.
    Column("id", Text, primary_key=True),
    # The server process that ran it, and the id of the API key.
    Column("owner", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("model", Text, nullable=False),
    Column("strategy", Text, nullable=False),
    Column("budget", BigInteger, nullable=False),
    Column("ended", Text, nullable=False),
    Column("seconds", Double, nullable=False),
    # Texts are in it: 0 or 1.
    Column("has_text", Integer, nullable=False),
    # Which secret it is sealed with; all that is told of it.
    Column("secret", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Index("traces_by_time", "at_ms", "id"),
    Index("traces_by_key", "key_id", "at_ms"),
    Index("traces_by_owner", "owner", "at_ms"),
)

receipt_keys = Table(
    "receipt_keys",
    metadata,
    Column("id", Text, primary_key=True),
    # The public key, in base64url.
    Column("x", Text, nullable=False),
    # When a server signed with it first.
    Column("seen_ms", BigInteger, nullable=False),
)

limit_windows = Table(
    "limit_windows",
    metadata,
    # A limit of an API key, and the window of it that begins then; 0 for a limit without windows. Locked by whoever
    # takes a lease.
    Column("key", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("begun_ms", BigInteger, primary_key=True),
    # Spent by requests that no lease was for: they came before there was a limit.
    _count("before"),
)

limit_leases = Table(
    "limit_leases",
    metadata,
    Column("key", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("begun_ms", BigInteger, primary_key=True),
    # A server process: nobody else changes the row while it lives.
    Column("owner", Text, primary_key=True),
    # What it may spend, in all, and what its settled requests have spent. Over all owners, `leased` and the `before` of
    # the window are never above the limit.
    _count("leased"),
    _count("spent"),
    Index("limit_leases_by_owner", "owner"),
)


def counts_of(usage: Usage) -> dict[str, int]:
    """What a request used, by the columns of its row."""
    return {
        "prompt": usage.prompt,
        "cached": usage.prompt_cached,
        "thinking": usage.hidden,
        "answer": usage.visible,
        "verifier_tokens": usage.verifier,
        "discarded": usage.discarded,
        "wasted": usage.wasted,
        "unseen_calls": usage.unseen_calls,
    }


COUNTS = (
    "prompt",
    "cached",
    "thinking",
    "answer",
    "verifier_tokens",
    "discarded",
    "wasted",
    "unseen_calls",
    "samples",
    "uncertain",
    "cost_nano_usd",
)
"""Columns of a request that add up."""
