"""Which replica a request goes to: that which is likely to have read the beginning of its prompt already.

By rendezvous hashing (Thaler and Ravishankar 1998, "Using name-based mappings to increase hit rates") with weights:
each replica has a number that follows from its address and from the beginning of the conversation, and the highest is
first. So of all requests that begin alike the same replica is first, on every server and after every restart; a replica
that comes or goes, or whose weight changes, moves no more of them than its share. How full a replica may become before
the next one has what is new is bounded by the mean, as in Mirrokni et al. 2018, "Consistent hashing with bounded
loads".
"""

from __future__ import annotations

import math
from hashlib import blake2b

from ponder.compute.text import Prompt

RAW = 1024
"""Characters, or tokens, of a raw text by which it is known."""
BOUND = 1.25
"""So many times its share of all calls a replica may have before what is new goes to another."""
IDLE = 0.5
"""Below this share of its places a replica is not full, however idle the others are."""


def beginning(prompt: Prompt, tenant: str | None) -> bytes:
    """Equal for turns of one conversation: of what stands before the model's first turn, and of whose it is.

    The first tokens alone would not do. As many as a system prompt has are the same in all conversations of a program,
    which would all go to one replica; more would differ between the turns of a short one.
    """
    if (known := prompt.read.get((beginning, tenant))) is not None:
        return known
    if prompt.raw is not None:
        told = repr(prompt.raw.text[:RAW])
    else:
        first = next((i for i, one in enumerate(prompt.messages) if one.role == "user"), len(prompt.messages) - 1)
        told = repr((prompt.tools, [(one.role, one.content) for one in prompt.messages[: first + 1]]))
    key = (tenant or "").encode()[:64]
    known = prompt.read[beginning, tenant] = blake2b(told.encode(), key=key, digest_size=16).digest()
    return known


def height(key: bytes, url: str, weight: float) -> float:
    """The number of a replica for what begins so; of several the highest is first. A replica of twice the weight is
    first twice as often."""
    digest = blake2b(url.encode(), key=key, digest_size=8).digest()
    return -weight / math.log(((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52)
