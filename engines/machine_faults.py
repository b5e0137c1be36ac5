"""Which errors are the machine's: no request is at fault where memory ends, the accelerator fails or a disk is full."""

from __future__ import annotations

import sys

NO_MEMORY = "can't allocate memory"
"""What PyTorch says in a plain `RuntimeError` where a CPU's memory ends."""


def of_the_machine(error: BaseException) -> bool:
    """The error, or one that it was raised from, would come of any request at that moment."""
    seen: BaseException | None = error
    while seen is not None:
        if _is(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _is(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    kinds = tuple(
        kind for name in ("OutOfMemoryError", "AcceleratorError") if (kind := getattr(torch, name, None)) is not None
    )
    if isinstance(error, OSError):
        # Decoders raise it, too, of what they read, without the number of a system's error.
        return error.errno is not None
    return isinstance(error, (MemoryError, *kinds)) or (isinstance(error, RuntimeError) and NO_MEMORY in str(error))
