"""The special methods of objects: which there are, and how the owner of an object carries them out."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import math
import operator
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ARITHMETIC = (
    *("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift", "rshift"),
    *("and", "xor", "or"),
)
DIFFERENCES = {f"__{name}__" for name in ("sub", "truediv", "floordiv", "divmod", "and", "xor", "or")}
"""Operations whose result says how two values differ. A test that subtracts an expected value from a program's object
would pass if that object answered 0, whatever the value is. So these are not asked of an object and a plain value."""
COMPARISONS = {f"__{name}__" for name in ("eq", "ne", "lt", "le", "gt", "ge")}


def _copied(how: str) -> Callable[[Any], Any]:
    def act(value: Any) -> Any:
        import copy

        return getattr(copy, how)(value)

    return act


def _finished(coroutine: Any) -> Any:
    import asyncio

    async def all_of_it() -> Any:
        return await coroutine

    return asyncio.run(all_of_it())


OPERATORS: dict[str, Callable[..., Any]] = {
    "__len__": len,
    "__iter__": iter,
    "__next__": next,
    "__reversed__": reversed,
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
    "__delitem__": operator.delitem,
    "__contains__": operator.contains,
    "__abs__": abs,
    "__neg__": operator.neg,
    "__pos__": operator.pos,
    "__invert__": operator.invert,
    "__round__": round,
    "__trunc__": math.trunc,
    "__floor__": math.floor,
    "__ceil__": math.ceil,
    "__int__": int,
    "__float__": float,
    "__complex__": complex,
    "__index__": operator.index,
    "__bool__": bool,
    "__bytes__": bytes,
    "__str__": str,
    "__repr__": repr,
    "__format__": format,
    "__dir__": dir,
    "__fspath__": os.fspath,
    "__enter__": lambda o: type(o).__enter__(o),
    "__exit__": lambda o, *raised: type(o).__exit__(o, *raised),
    "__copy__": _copied("copy"),
    "__deepcopy__": _copied("deepcopy"),
    "__await__": _finished,
    **{name: getattr(operator, name) for name in COMPARISONS},
    **{f"__{name}__": getattr(operator, f"__{name}__") for name in ARITHMETIC if name != "divmod"},
    **{f"__i{name}__": getattr(operator, f"__i{name}__") for name in ARITHMETIC if name != "divmod"},
    "__divmod__": divmod,
    "__pow__": pow,
}
"""What the owner of an object does, by the name of the special method."""

SPECIAL = {*OPERATORS, *(f"__r{name}__" for name in ARITHMETIC), "__call__", "__hash__", "__get__"}
"""Special methods that a proxy has where the class of the real object has them."""
NUMBERS = {
    f"__{name}__"
    for name in (
        *("abs", "round", "trunc", "floor", "ceil", "int", "float", "complex", "index", "bool", "len"),
        *("neg", "pos", "invert"),
    )
}
"""Special methods that give a number, or change a sign."""
