"""`ponder receipt verify`: checks a receipt against a public key, against what stands beside it in its file, and
against the tokens themselves where a trace has them. It wants files alone; a key may also be fetched from a server.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ponder.compute.price import NANO
from ponder.compute.token_chain import TokenHash, call_link, head_of, read_link
from ponder.metering.receipts import COUNTS, LATER, NoReceipt, WrongReceipt, as_text, read, read_keys, verify

URL = "http://127.0.0.1:8000"
SECONDS = 30.0
"""That a server has to give its keys."""
REFUSED, UNREADABLE = 1, 2
"""Exit statuses: the receipt is refused; it, a key or a trace cannot be read."""
MOST = 1 << 30
"""Bytes of a file that are read."""


def run(options: argparse.Namespace, out: TextIO, errors: TextIO) -> int:
    """Checks a receipt and says what it covers; the exit status: 0, or one of `REFUSED` and `UNREADABLE`."""
    try:
        receipt, beside = found(text_of(options.file))
        told = signed(receipt, beside, read_keys(keys_of(options.key)))
        tokens = None if options.trace is None else compare(told, text_of(options.trace))
    except WrongReceipt as error:
        errors.write(f"ponder: refused: {error.message}\n")
        return REFUSED
    except NoReceipt as error:
        errors.write(f"ponder: {error.message}\n")
        return UNREADABLE
    out.writelines(f"{line}\n" for line in words(told, tokens))
    return 0


# -- what is given ----------------------------------------------------------------------------------------------------


def text_of(name: str) -> str:
    """A file, or standard input for `-`. Raises `NoReceipt`."""
    try:
        raw = sys.stdin.buffer.read(MOST) if name == "-" else Path(name).read_bytes()
        return raw.decode()
    except OSError as error:
        raise NoReceipt(f"{name}: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError:
        raise NoReceipt(f"{name}: it is no text in UTF-8") from None


def keys_of(place: str | None) -> str:
    """The text of public keys: a file, or what a server says. Raises `NoReceipt`."""
    place = place or os.environ.get("PONDER_URL") or URL
    if not place.startswith(("http://", "https://")):
        return text_of(place)
    import httpx

    url = place if place.rstrip("/").endswith("/v1/receipts/key") else place.rstrip("/") + "/v1/receipts/key"
    key = os.environ.get("PONDER_API_KEY")
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        answer = httpx.get(url, headers=headers, timeout=SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL):
        raise NoReceipt(f"{url} does not answer: --key names a file with the public key, or another server") from None
    if answer.status_code != 200:
        mend = "; $PONDER_API_KEY is sent as the key" if answer.status_code in (401, 403) else ""
        raise NoReceipt(f"{url} answers {answer.status_code}{mend}")
    return answer.text


def found(text: str) -> tuple[str, Mapping[str, Any]]:
    """The receipt in a file, and the object it stands in, empty where it is alone: an answer, the last event of a
    stream, a row of usage, or what `GET /v1/receipts/{id}` says. Raises `NoReceipt`."""
    text = text.strip()
    if not text.startswith(("{", "data:", ":", "event:")):
        return text, {}
    objects = [text] if text.startswith("{") else [line[5:] for line in text.splitlines() if line.startswith("data:")]
    for one in reversed(objects):
        if one.strip() == "[DONE]":
            continue
        told = _object(one)
        within = told.get("thinking")
        for place in (told, within):
            if isinstance(place, dict) and isinstance(receipt := cast("dict[str, Any]", place).get("receipt"), str):
                return receipt, told
    raise NoReceipt("there is no receipt in it: an answer has it in thinking.receipt")


def _object(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise NoReceipt("it is neither a receipt nor JSON that can be read")
    return cast("dict[str, Any]", told)


# -- what is compared -------------------------------------------------------------------------------------------------


def signed(receipt: str, beside: Mapping[str, Any], keys: Sequence[Ed25519PublicKey]) -> dict[str, Any]:
    """What a receipt says, and its file too. Raises `WrongReceipt`, with all that differs, and `NoReceipt`."""
    differs = differences(read(receipt)[1], beside)
    try:
        told = verify(receipt, keys)
    except WrongReceipt as error:
        raise WrongReceipt("\n".join([error.message, *differs])) from None
    if differs:
        raise WrongReceipt("\n".join(["it is signed, and its file says something else:", *differs]))
    return told


def differences(told: Mapping[str, Any], beside: Mapping[str, Any]) -> list[str]:
    """Where a file says something else than its receipt: each in a line."""
    return [
        f"{name}: it says {there!r}, the receipt {told.get(claim)!r}"
        for name, there, claim in _said(told, beside)
        if there != told.get(claim)
    ]


def _said(told: Mapping[str, Any], beside: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """(what a file calls it, what it says, the claim it is to equal)."""
    row: Mapping[str, Any] = beside if "receipt" in beside else {}
    for place in (row, _within(beside, "claims")):
        for claim in (*COUNTS, "key", "strategy", "cost_nano_usd", "price_version", "prices", "calls", "chain", "iat"):
            nothing = 0 if claim in LATER else None
            if claim in place and (claim in told or place[claim] != nothing):
                yield claim, place[claim], claim
    if row:
        yield "id", row.get("id"), "id"
    usage, thinking = _within(beside, "usage"), _within(beside, "thinking")
    parts = [("prompt_tokens", usage, "prompt")]
    parts += [("cached_tokens", _within(usage, "prompt_tokens_details"), "cached")]
    parts += [("reasoning_tokens", _within(usage, "completion_tokens_details"), "thinking")]
    parts += [("spent", thinking, "thinking"), ("verifier_tokens", thinking, "verifier_tokens")]
    parts += [("discarded_tokens", thinking, "discarded"), ("unseen_calls", thinking, "unseen_calls")]
    parts += [("strategy", thinking, "strategy")]
    for name, place, claim in parts:
        if name in place:
            yield name, place[name], claim
    made, hidden = usage.get("completion_tokens"), told.get("thinking")
    if isinstance(made, int) and isinstance(hidden, int):
        yield "completion_tokens - reasoning_tokens", made - hidden, "answer"
    if isinstance(cost := thinking.get("cost_usd"), int | float):
        yield "cost_usd in nano-USD", round(cost * NANO), "cost_nano_usd"


def _within(place: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inside = place.get(name)
    return cast("dict[str, Any]", inside) if isinstance(inside, dict) else {}


def compare(told: Mapping[str, Any], text: str) -> int:
    """Works the hash chain of a receipt out anew from the token ids of a trace, and its counts; how many tokens they
    are. Raises `WrongReceipt` where they differ, and `NoReceipt` for a trace that has none."""
    trace = _object(text)
    if trace.get("id") != told["id"]:
        raise WrongReceipt(f"the trace is of the request {trace.get('id')}, the receipt of {told['id']}")
    try:
        salt = bytes.fromhex(trace["salt"])
        links, counts = _links(salt, trace["choices"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise NoReceipt(
            "the trace has no token ids: they are kept with retain_text = true, and shown to a key with the scope "
            "reveal by the server that signed the receipt"
        ) from None
    for name, made in counts.items():
        said = told["thinking"] + told["answer"] if name == "tokens" else told.get(name, 0)
        if made != said:
            raise WrongReceipt(f"{name}: the calls of the trace come to {made}, the receipt says {said}")
    if as_text(head_of(salt, links)) != told["chain"]:
        raise WrongReceipt("the token ids of the trace are not those that the receipt was signed over")
    return counts["tokens"]


def _links(salt: bytes, answers: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, int]]:
    """The links of the chain, and what the calls add up to."""
    links: list[str] = []
    counts: dict[str, int] = dict.fromkeys(("tokens", "verifier_tokens", "wasted", "unseen_calls", "calls"), 0)
    visible_of_chosen, chose = 0, True
    for answer, one in enumerate(answers):
        calls = one["calls"]
        for call in calls:
            made, hashed = call["tokens"], TokenHash(salt)
            hashed.add(call["ids"])
            hidden, visible, wasted = made["hidden"], made["visible"], made["wasted"]
            link = call_link(answer, call["number"], call["parent"], hidden, visible, wasted, hashed.digest)
            links.append(link)
            counts["tokens"] += hidden + visible
            counts["wasted"] += wasted
            counts["unseen_calls"] += bool(call.get("unseen"))
            counts["calls"] += 1
            visible_of_chosen += visible if call["chosen"] else 0
        chose = chose and any(call["chosen"] for call in calls)
        for number, asked in enumerate(one["reads"]):
            links.append(read_link(answer, number, asked["tokens"], asked["cached"], asked["chains"]))
            counts["verifier_tokens"] += asked["tokens"]
    if chose:
        # Of a request that was cut off before its end nobody knows what would have been the answer.
        counts["answer"] = visible_of_chosen
    return links, counts


# -- words ------------------------------------------------------------------------------------------------------------


def words(told: Mapping[str, Any], tokens: int | None) -> list[str]:
    """What a receipt covers, for people."""
    at = datetime.fromtimestamp(told["iat"], UTC).isoformat().replace("+00:00", "Z")
    cost = f"{told['cost_nano_usd'] / NANO:.9f}".rstrip("0").rstrip(".")
    lines = [
        "The receipt is genuine: it was signed by this key, and nothing in it was changed since.",
        f"request   {told['id']} of the API key {told['key']}, {at}",
        f"model     {told['model']}, strategy {told['strategy']}, {told['calls']} calls",
        f"prompt    {told['prompt']} tokens, {told['cached']} of them cached",
        f"thinking  {told['thinking']} tokens, {told['discarded']} of them of chains that were discarded",
        f"answer    {told['answer']} tokens",
        f"verifier  {told['verifier_tokens']} tokens read",
        f"wasted    {told['wasted']} tokens, billed to nobody",
        f"unseen    the end of {told['unseen_calls']} of the calls: their counts are the least that is certain"
        if told.get("unseen_calls")
        else "unseen    nothing",
        f"cost      {cost} USD, by the price book {told['price_version']}"
        if "prices" in told
        else "cost      no price was known",
    ]
    if tokens is None:
        lines.append("tokens    fixed by a hash; not compared (--trace FILE does, with a trace that has their ids)")
    else:
        lines.append(f"tokens    all {tokens} of the trace are those that were signed")
    return [
        *lines,
        "Proven is that these counts and tokens were fixed when the receipt was made; not that they were needed.",
    ]
