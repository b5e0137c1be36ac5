"""Which call of which request: the name of a call to a model, for its logs, traces and recordings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallIdentity:
    """The identity of a call. It says nothing of what was asked.

    An engine may need several calls of its own for one chain (its thought, then its answer): they have one identity.
    """

    request: str
    """Id of the request, the same as in the header `x-request-id`; outside a server `local_` and its number."""
    path: tuple[int, ...]
    """Child indices on the path from the root of the request: which of its answers, which chain of that answer, which
    continuation of that chain, and so on. Children are counted in the order they were begun."""
    purpose: str
    """`sample`, `stream`, `extend`, `answer`, `reward`, or the word of a verifier for its question, such as `judge`."""

    def __str__(self) -> str:
        """`req_5f0c/0.3/sample`."""
        return f"{self.request}/{'.'.join(map(str, self.path))}/{self.purpose}"
