"""The grammar of expressions: LaTeX and plain arithmetic, as far as answers are made of them."""

from __future__ import annotations

import cmath
import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Final

from ponder.compute.answers.reckoning import (
    Number,
    TooLarge,
    Unread,
    absolute,
    bounded,
    choose,
    factorial,
    inexact,
    logarithm,
    minus,
    over,
    plus,
    point,
    raised,
    rooted,
    several,
    times,
    whole,
)

DEEPEST = 24
"""Levels of brackets."""

Values = Callable[[int], Number]
"""The value at a point."""

_SYMBOL = re.compile(
    r"\s*(?:(\d+(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?![\d.]))?|\.\d+|\d+\.(?!\d))"
    r"|(\\[a-zA-Z]+|\\.)"
    r"|([^\W\d_]+)"
    r"|(\*\*|.))",
    re.DOTALL,
)
_FUNCTIONS: Final[dict[str, Callable[[complex], complex]]] = {
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "cot": lambda x: 1 / cmath.tan(x),
    "sec": lambda x: 1 / cmath.cos(x),
    "csc": lambda x: 1 / cmath.sin(x),
    "sinh": cmath.sinh,
    "cosh": cmath.cosh,
    "tanh": cmath.tanh,
    "arcsin": cmath.asin,
    "arccos": cmath.acos,
    "arctan": cmath.atan,
    "asin": cmath.asin,
    "acos": cmath.acos,
    "atan": cmath.atan,
    "ln": cmath.log,
    "exp": cmath.exp,
    "lg": lambda x: cmath.log(x) / math.log(10),
    "log": lambda x: cmath.log(x) / math.log(10),
}
_INVERSE: Final = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_SEVERAL: Final = ("max", "min", "gcd", "lcm")
_WORDS: Final = frozenset((*_FUNCTIONS, *_SEVERAL, "sqrt", "abs", "pi", "floor", "ceil", "cbrt", "binom"))
_CLOSING: Final = {"(": ")", "[": "]", "{": "}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}


class Parser:
    """Recursive descent over one expression; what it reads is a function of the point."""

    def __init__(self, expression: str) -> None:
        self._symbols = _symbols(expression)
        self._at = 0
        self._depth = 0
        self._bars = 0
        self._runs = 0
        """Where the last factor stood that had no sign before it."""
        self.variables = set[str]()

    def whole(self) -> Values:
        """The whole expression. Raises `Unread`."""
        if not self._symbols:
            raise Unread
        found = self._sum()
        if self._at != len(self._symbols):
            raise Unread
        return found

    def _peek(self) -> str:
        return self._symbols[self._at] if self._at < len(self._symbols) else ""

    def _next(self) -> str:
        symbol = self._peek()
        self._at += 1
        return symbol

    def _expect(self, symbol: str) -> None:
        if self._next() != symbol:
            raise Unread

    def _sum(self) -> Values:
        self._depth += 1
        if self._depth > DEEPEST:
            raise TooLarge
        found = self._product()
        while (sign := self._peek()) in ("+", "-"):
            self._at += 1
            found = _both(plus if sign == "+" else minus, found, self._product())
        self._depth -= 1
        return found

    def _product(self) -> Values:
        if self._peek() in ("+", "-"):
            sign = self._next()
            inside = self._product()
            return inside if sign == "+" else _one(lambda v: -v, inside)
        found = self._run()
        while (sign := self._peek()) in ("*", "/"):
            self._at += 1
            single = self._at
            found = _both(times if sign == "*" else over, found, self._signed_run())
            if sign == "/" and self._runs > single:
                # a/bc: nobody knows what is divided by.
                raise Unread
        return found

    def _signed_run(self) -> Values:
        if self._peek() in ("+", "-"):
            sign = self._next()
            inside = self._signed_run()
            return inside if sign == "+" else _one(lambda v: -v, inside)
        return self._run()

    def _run(self, functions: bool = True) -> Values:
        """Factors side by side: 2x, 3\\sqrt 2, x(x+1)."""
        first = self._peek()
        found = self._power()
        while self._begins(self._peek(), functions):
            symbol = self._peek()
            if symbol[0].isdigit() or symbol[0] == ".":
                # 2 3, x2: nobody knows what is meant.
                raise Unread
            if first[:1].isdigit() and symbol == "\\frac" and self._numbers_ahead():
                # A mixed number inside an expression.
                raise Unread
            self._runs = self._at
            found = _both(times, found, self._power())
        return found

    def _numbers_ahead(self) -> bool:
        ahead = self._symbols[self._at + 1 : self._at + 7]
        digits = [symbol for symbol in ahead if symbol not in ("{", "}")]
        return ahead[0:1] != ["{"] or (len(digits) >= 2 and digits[0].isdigit() and digits[1].isdigit())

    def _begins(self, symbol: str, functions: bool) -> bool:
        """Whether a factor may begin with this symbol."""
        if not symbol or symbol in "+-*/^_,!)]}=<>|'°&;:~":
            return False
        if symbol in ("\\rfloor", "\\rceil", "**"):
            return False
        return functions or symbol.removeprefix("\\") not in (*_FUNCTIONS, *_SEVERAL)

    def _power(self) -> Values:
        found = self._factor()
        while True:
            symbol = self._peek()
            if symbol == "!":
                self._at += 1
                found = _one(factorial, found)
            elif symbol == "°":
                self._at += 1
                found = _one(lambda v: times(v, math.pi / 180), found)
            elif symbol in ("^", "**"):
                self._at += 1
                return _both(raised, found, self._exponent())
            else:
                return found

    def _exponent(self) -> Values:
        if self._peek() in ("+", "-"):
            sign = self._next()
            inside = self._exponent()
            return inside if sign == "+" else _one(lambda v: -v, inside)
        if self._peek() == "{":
            inside = self._group()
            if self._peek() == "!":
                raise Unread
            return inside
        found = self._factor()
        if self._peek() in ("^", "**"):
            self._at += 1
            return _both(raised, found, self._exponent())
        return found

    def _group(self) -> Values:
        """{...}"""
        self._expect("{")
        found = self._sum()
        self._expect("}")
        return found

    def _argument(self) -> Values:
        """{...} or, without braces, one digit, letter or command."""
        symbol = self._peek()
        if symbol == "{":
            return self._group()
        if symbol[:1].isdigit():
            if len(symbol) == 1:
                return self._factor()
            if not symbol.isdigit():
                raise Unread
            self._symbols[self._at] = symbol[1:]
            return _fixed(Fraction(symbol[0]))
        if len(symbol) == 1 or symbol.startswith("\\"):
            return self._factor()
        raise Unread

    def _factor(self) -> Values:
        symbol = self._next()
        if not symbol:
            raise Unread
        if symbol[0].isdigit() or (symbol[0] == "." and len(symbol) > 1):
            return _fixed(bounded(Fraction(symbol)))
        if symbol in ("(", "[", "{", "\\lfloor", "\\lceil"):
            found = self._sum()
            self._expect(_CLOSING[symbol])
            if symbol.startswith("\\"):
                return _one(lambda v: whole(v, symbol == "\\lceil"), found)
            return found
        if symbol == "|" and not self._bars:
            self._bars += 1
            found = self._sum()
            self._expect("|")
            self._bars -= 1
            return _one(absolute, found)
        name = symbol.removeprefix("\\")
        if symbol == "\\frac":
            return _both(over, self._argument(), self._argument())
        if symbol == "\\binom" or name == "binom":
            return self._binomial(symbol)
        if name in ("sqrt", "cbrt", "√"):
            return self._root(name)
        if name in _FUNCTIONS:
            return self._function(name)
        if name in _SEVERAL:
            return self._listed(name)
        if name in ("abs", "floor", "ceil") and self._peek() == "(":
            inside = self._factor()
            return _one(absolute if name == "abs" else lambda v: whole(v, name == "ceil"), inside)
        if name in ("π", "pi"):
            return _fixed(math.pi)
        if symbol == "e":
            return _fixed(math.e)
        if symbol == "i":
            return _fixed(1j)
        if symbol.startswith("\\") or not symbol.isalpha() or symbol in "∞∅":
            raise Unread
        return self._variable(symbol)

    def _variable(self, name: str) -> Values:
        if self._peek() == "_":
            self._at += 1
            if self._peek() == "{":
                end = self._symbols.index("}", self._at) if "}" in self._symbols[self._at :] else -1
                if end < 0 or end - self._at > 6:
                    raise Unread
                name += "_" + "".join(self._symbols[self._at + 1 : end])
                self._at = end + 1
            elif self._peek()[:1].isalnum():
                name += "_" + self._next()
            else:
                raise Unread
        if self._peek() == "'":
            raise Unread
        self.variables.add(name)
        return lambda place: point(name, place)

    def _binomial(self, symbol: str) -> Values:
        if symbol == "\\binom":
            return _both(choose, self._argument(), self._argument())
        self._expect("(")
        n = self._sum()
        self._expect(",")
        k = self._sum()
        self._expect(")")
        return _both(choose, n, k)

    def _root(self, name: str) -> Values:
        degree: Values = _fixed(Fraction(3 if name == "cbrt" else 2))
        if self._peek() == "[":
            self._at += 1
            degree = self._sum()
            self._expect("]")
        if self._peek() == "(":
            inside = self._factor()
        elif self._peek()[:1].isdigit() and len(self._peek()) > 1:
            # TeX takes the first digit, people mean all.
            raise Unread
        else:
            inside = self._argument()
        return _both(rooted, inside, degree)

    def _function(self, name: str) -> Values:
        base: Values | None = None
        power: Values | None = None
        inverse = False
        for _ in range(2):
            if self._peek() == "_" and name == "log":
                self._at += 1
                base = self._factor() if self._peek()[:1].isdigit() else self._argument()
            elif self._peek() in ("^", "**"):
                self._at += 1
                if self._symbols[self._at : self._at + 4] == ["{", "-", "1", "}"] and name in _INVERSE:
                    self._at += 4
                    inverse = True
                else:
                    power = self._exponent()
        if self._peek() == "(":
            inside = self._factor()
            if self._peek() in ("^", "**") and power is None:
                self._at += 1
                power = self._exponent()
        elif self._peek() == "{":
            inside = self._group()
        elif self._peek() in ("+", "-"):
            inside = self._signed_run()
        else:
            inside = self._run(functions=False)
        reckon = _FUNCTIONS[_INVERSE[name] if inverse else name]
        if base is not None:
            found: Values = _both(logarithm, inside, base)
        else:
            found = _one(lambda v: reckon(complex(inexact(v))), inside)
        return found if power is None else _both(raised, found, power)

    def _listed(self, name: str) -> Values:
        opening = self._next()
        if opening not in ("(", "{"):
            raise Unread
        values = [self._sum()]
        while self._peek() == ",":
            self._at += 1
            values.append(self._sum())
        self._expect(_CLOSING[opening])
        return lambda point: several(name, [v(point) for v in values])


def _symbols(expression: str) -> list[str]:
    tokens: list[str] = []
    for number, command, letters, sign in _SYMBOL.findall(expression):
        if letters and letters not in _WORDS:
            known = next((w for w in ("sin", "cos", "tan", "log", "ln", "sqrt") if letters.startswith(w)), None)
            if known and len(letters) == len(known) + 1:
                tokens += [known, letters[len(known) :]]
            elif len(letters) > 3 and not letters.isupper():
                raise Unread
            else:
                tokens += letters
        elif sign == "√":
            tokens.append("sqrt")
        elif not sign.isspace() or number or command:
            tokens.append(number or command or letters or sign)
    # Of a sequence such as "x^10" TeX would take the first digit only, people mean all.
    return [symbol for symbol in tokens if symbol.strip()]


def _fixed(number: Number) -> Values:
    return lambda _: number


def _one(reckon: Callable[[Number], Number], inside: Values) -> Values:
    return lambda point: reckon(inside(point))


def _both(reckon: Callable[[Number, Number], Number], first: Values, second: Values) -> Values:
    return lambda point: reckon(first(point), second(point))
