"""Chat templates rendered so that what comes out says which of it the template wrote and which a caller typed.

A template's own text is made of strings that know they are the template's, and keep that through joining, slicing and
trimming; what callers typed are ordinary strings with the real values. So a template sees what it would have seen, and
what loses its mark on the way counts as typed: a control token is never made of it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from types import GeneratorType
from typing import Any, Self, SupportsIndex, cast

from jinja2 import Template, nodes, pass_eval_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import escape

Ranges = tuple[tuple[int, int], ...]
"""Begin and end of pieces of a text, in order, apart from one another."""


class Written(str):
    """A text that knows which characters of it the template wrote: those of `_own`. What a method of `str` that is not
    here returns is an ordinary string."""

    __slots__ = ("_own",)
    _own: Ranges

    def __new__(cls, text: object = "", own: Ranges = ()) -> Self:
        made = super().__new__(cls, text)
        made._own = own
        return made

    @classmethod
    def whole(cls, text: str) -> Self:
        """All of it the template's."""
        return cls(text, ((0, len(text)),) if text else ())

    @classmethod
    def joined(cls, parts: Iterable[str]) -> Self:
        """These, one behind the other."""
        pieces = list(parts)
        own: list[tuple[int, int]] = []
        at = 0
        for piece in pieces:
            if isinstance(piece, Written):
                for begin, end in piece._own:
                    if own and own[-1][1] == at + begin:
                        own[-1] = own[-1][0], at + end
                    else:
                        own.append((at + begin, at + end))
            at += len(piece)
        return cls("".join(pieces), tuple(own))

    @property
    def pieces(self) -> list[tuple[str, bool]]:
        """The text cut up: (piece, the template's)."""
        cut: list[tuple[str, bool]] = []
        at = 0
        for begin, end in self._own:
            if begin > at:
                cut.append((self._plain(at, begin), False))
            cut.append((self._plain(begin, end), True))
            at = end
        if at < len(self):
            cut.append((self._plain(at, len(self)), False))
        return cut

    def _plain(self, begin: int, end: int) -> str:
        return super().__getitem__(slice(begin, end))

    def _part(self, begin: int, end: int) -> Self:
        own = tuple((max(a, begin) - begin, min(b, end) - begin) for a, b in self._own if a < end and b > begin)
        return type(self)(self._plain(begin, end), own)

    # -- what `str` has, with the marks kept --------------------------------------------------------------------------

    def __str__(self) -> Self:
        return self

    def __add__(self, other: str) -> Written:
        if not isinstance(other, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            return NotImplemented
        return WrittenMarkup.joined((escaped(self), other)) if _safe(other) else self.joined((self, other))

    def __radd__(self, other: str) -> Written:
        if not isinstance(other, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            return NotImplemented
        return WrittenMarkup.joined((other, escaped(self))) if _safe(other) else self.joined((other, self))

    def __mul__(self, times: SupportsIndex) -> Self:
        return self.joined([self] * times.__index__())

    def __rmul__(self, times: SupportsIndex) -> Self:
        return self * times

    def __mod__(self, values: Any) -> str:
        """With `%s` alone the marks are kept."""
        text = super().__mod__(values)
        given: tuple[Any, ...] = cast("tuple[Any, ...]", values) if isinstance(values, tuple) else (values,)
        literals = self.split("%s")
        if len(literals) != len(given) + 1 or any("%" in literal for literal in literals):
            return text
        rest = (part for pair in zip(given, literals[1:], strict=True) for part in (str(pair[0]), pair[1]))
        return Written.joined((literals[0], *rest))

    def __getitem__(self, key: SupportsIndex | slice) -> Self:
        if isinstance(key, slice):
            begin, end, step = key.indices(len(self))
            return self._part(begin, max(begin, end)) if step == 1 else type(self)(super().__getitem__(key))
        at = key.__index__()
        super().__getitem__(at)
        at %= len(self)
        return self._part(at, at + 1)

    def strip(self, chars: str | None = None, /) -> Self:
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None, /) -> Self:
        return self._part(len(self) - len(super().lstrip(chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> Self:
        return self._part(0, len(super().rstrip(chars)))

    def removeprefix(self, prefix: str, /) -> Self:
        return self._part(len(prefix), len(self)) if self.startswith(prefix) else self

    def removesuffix(self, suffix: str, /) -> Self:
        return self._part(0, len(self) - len(suffix)) if suffix and self.endswith(suffix) else self

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._apart(super().split(sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._apart(super().rsplit(sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[str]:
        return self._apart(super().splitlines(keepends), None)

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        head, found, tail = self._apart(super().partition(sep), "")
        return head, found, tail

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        head, found, tail = self._apart(super().rpartition(sep), "")
        return head, found, tail

    def _apart(self, parts: Iterable[str], sep: str | None) -> list[str]:
        """Parts of the text, in order, with the marks they have in it. None: white space is between them, with which
        no part begins."""
        marked: list[str] = []
        at = 0
        for part in parts:
            begin = self.index(part, at) if sep is None else at
            at = begin + len(part)
            marked.append(self._part(begin, at))
            at += len(sep or "")
        return marked

    def join(self, parts: Iterable[str], /) -> Self:
        joined: list[str] = []
        for part in parts:
            joined += (self, part)
        return self.joined(joined[1:])

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> Self:
        if not old:
            return type(self)(super().replace(old, new, count))
        most = count.__index__()
        made: list[str] = []
        at = 0
        while most != 0 and (found := self.find(old, at)) >= 0:
            made += (self._part(at, found), new)
            at = found + len(old)
            most -= 1
        return self.joined((*made, self._part(at, len(self)))) if made else self

    def _cased(self, text: str) -> Self:
        return type(self)(text, self._own if len(text) == len(self) else ())

    def lower(self) -> Self:
        return self._cased(super().lower())

    def upper(self) -> Self:
        return self._cased(super().upper())

    def title(self) -> Self:
        return self._cased(super().title())

    def capitalize(self) -> Self:
        return self._cased(super().capitalize())


class WrittenMarkup(Written):
    """One that a template has called safe: what is put to it is escaped, as by `markupsafe.Markup`."""

    __slots__ = ()

    def __html__(self) -> WrittenMarkup:
        return self

    def __add__(self, other: str) -> WrittenMarkup:
        return self.joined((self, escaped(other))) if isinstance(other, str) else NotImplemented  # pyright: ignore[reportUnnecessaryIsInstance]

    def __radd__(self, other: str) -> WrittenMarkup:
        return self.joined((escaped(other), self)) if isinstance(other, str) else NotImplemented  # pyright: ignore[reportUnnecessaryIsInstance]


def _safe(text: str) -> bool:
    return hasattr(text, "__html__")


def escaped(text: str) -> str:
    """A text for HTML, with its marks; one that is safe is not escaped again."""
    if _safe(text):
        return text
    pieces = text.pieces if isinstance(text, Written) else [(text, False)]
    safe = ((str(escape(piece)), own) for piece, own in pieces)
    return WrittenMarkup.joined(WrittenMarkup.whole(piece) if own else piece for piece, own in safe)


class _Code(CodeGenerator):
    """Writes the program of a template with its texts marked."""

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return _source("".join(map(str, group)))

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:
        value = node.as_const(frame.eval_ctx)
        self.write(
            _source(value) if isinstance(value, str) else str(value) if isinstance(value, float) else repr(value)
        )

    def visit_TemplateData(self, node: nodes.TemplateData, frame: Frame) -> None:
        self.write(_source(str(node.as_const(frame.eval_ctx))))

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat((")
        for part in node.nodes:
            self.write("str(")
            self.visit(part, frame)
            self.write("), ")
        self.write("))")


def _source(text: str) -> str:
    return f"environment.text({text!r})"


class _Environment(SandboxedEnvironment):
    """Templates may change lists here, which some do; all that they are given is made anew for each rendering."""

    code_generator_class = _Code
    concat = staticmethod(Written.joined)  # pyright: ignore[reportAssignmentType]
    text = staticmethod(lru_cache(maxsize=1 << 16)(Written.whole))


@pass_eval_context
def _join(context: nodes.EvalContext, value: Any, d: Any = "", attribute: Any = None) -> str:
    return _theirs("join")(context, value, Written(d) if type(d) is str else d, attribute)


@pass_eval_context
def _replace(context: nodes.EvalContext, s: Any, old: Any, new: Any, count: int | None = None) -> str:
    return _theirs("replace")(context, Written(s) if type(s) is str else s, old, new, count)


def _mark_safe(value: Any) -> str:
    return WrittenMarkup.joined((value if isinstance(value, str) else str(value),))


def _theirs(name: str) -> Callable[..., Any]:
    filters: Mapping[str, Callable[..., Any]] = importlib.import_module("jinja2.filters").FILTERS
    return filters[name]


@lru_cache(maxsize=64)
def compiled(template: str) -> Template:
    """A chat template as transformers compiles it: the same filters, functions and extensions. Renders a `Written`."""
    utils: Any = importlib.import_module("transformers.utils.chat_template_utils")
    theirs: Any = utils._compile_jinja_template(template).environment
    made = _Environment(
        trim_blocks=theirs.trim_blocks,
        lstrip_blocks=theirs.lstrip_blocks,
        keep_trailing_newline=theirs.keep_trailing_newline,
        extensions=[type(extension) for extension in theirs.extensions.values()],
    )
    tojson: Callable[..., str] = theirs.filters["tojson"]

    def listed(value: Any, *args: Any, **kwargs: Any) -> str:
        """Some templates write what a filter goes through, which is no list yet."""
        return tojson([*cast("Iterable[Any]", value)] if isinstance(value, GeneratorType) else value, *args, **kwargs)

    made.filters |= theirs.filters | {"join": _join, "replace": _replace, "safe": _mark_safe, "tojson": listed}
    made.globals |= theirs.globals
    return made.from_string(template)
