"""What an object keeps alive."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import BuiltinFunctionType, FrameType, FunctionType, ModuleType


def within(root: object) -> Iterator[object]:
    """Everything that can be reached from an object, code and modules left out."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if id(one) not in seen and not isinstance(
            one, type | ModuleType | FunctionType | BuiltinFunctionType | FrameType
        ):
            seen.add(id(one))
            yield one
            waiting.extend(gc.get_referents(one))
