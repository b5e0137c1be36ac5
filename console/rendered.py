"""Text of a model as a page shows it: Markdown with formulas, and nothing in it that could act.

The text is hostile until shown otherwise. HTML in it is text, addresses of other kinds than http, https and mailto are
none, images are links, so nothing is fetched. The browser goes through what comes out once more (DOMPurify, which
NiceGUI brings), and the page's policy runs no script of a text and asks no other host.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape
from xml.etree import ElementTree

from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from nicegui import ui

__all__ = ["Answer", "html", "mathml"]

LONGEST = 1 << 15
"""Characters of a text that are read as Markdown; a longer one is shown as it is."""
FORMULA = 2000
"""Characters of a formula that are read as one."""
PAIRS = (("$$", "$$", True), ("\\[", "\\]", True), ("\\(", "\\)", False), ("$", "$", False))
"""How formulas begin and end, and whether they stand on a line of their own."""
BOX, BOXED = "\\boxed{", 400
"""How an answer in a box begins, and characters of it at most."""
KEPT = frozenset(
    (
        *(
            "accent",
            "columnalign",
            "columnlines",
            "display",
            "displaystyle",
            "fence",
            "form",
            "linethickness",
            "lspace",
        ),
        *("mathvariant", "maxsize", "minsize", "movablelimits", "notation", "rowspacing", "rspace", "separator"),
        *("stretchy", "width"),
    )
)
"""Attributes that a formula needs to look right."""
ELEMENTS = frozenset(
    (
        *("math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot", "mstyle", "mpadded"),
        *("mphantom", "menclose", "mfenced", "msub", "msup", "msubsup", "munder", "mover", "munderover", "none"),
        *("mmultiscripts", "mprescripts", "mtable", "mtr", "mtd", "mlabeledtr", "merror"),
    )
)
"""Elements of a formula. The converter takes HTML in a `\\text{}` for HTML."""
_ADDRESS = re.compile(r"(https?://|mailto:|#)", re.IGNORECASE)
_MATHML = "http://www.w3.org/1998/Math/MathML"


def html(text: str) -> str:
    """The text as HTML in which nothing of it is markup but Markdown's own."""
    if len(text) > LONGEST:
        return f"<pre>{escape(text)}</pre>"
    return str(_reader().render(text))


@lru_cache(maxsize=512)
def mathml(source: str, block: bool) -> str:
    """A formula in LaTeX as MathML; one that cannot be read as its source."""
    if len(source) <= FORMULA:
        try:
            return _clean(convert(source, display="block" if block else "inline"))
        except Exception:  # noqa: BLE001,S110 - the converter raises what it likes over what is no formula
            pass
    return f"<code>{escape(source)}</code>"


def _clean(written: str) -> str:
    """MathML without attributes that mean more than how it looks."""
    tree = ElementTree.fromstring(written)  # noqa: S314 - the converter has written it, without entities
    for element in tree.iter():
        element.tag = element.tag.removeprefix(f"{{{_MATHML}}}")
        if element.tag not in ELEMENTS:
            raise ValueError(f"{element.tag} is no element of a formula")
        for name in set(element.attrib) - KEPT:
            del element.attrib[name]
    return ElementTree.tostring(tree, encoding="unicode", short_empty_elements=False)


@lru_cache(maxsize=1)
def _reader() -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False, "linkify": False, "maxNesting": 20})
    reader.enable("table").enable("strikethrough")
    reader.validateLink = lambda url: _ADDRESS.match(url) is not None
    reader.inline.ruler.before("escape", "formula", _formula)
    reader.add_render_rule("formula", _shown)
    reader.add_render_rule("image", _as_link)
    return reader


def _formula(state: StateInline, silent: bool) -> bool:
    """A rule of the reader: a formula that begins here and ends within the same paragraph."""
    source, at = state.src, state.pos
    if source[at] not in "$\\":
        return False
    if source.startswith(BOX, at):
        return _box(state, silent)
    for begin, end, block in PAIRS:
        if not source.startswith(begin, at):
            continue
        start = at + len(begin)
        stop = source.find(end, start, start + FORMULA + len(end))
        inside = source[start:stop] if stop > 0 else ""
        # A dollar before a number is money: `$5 and $7`.
        money = begin == "$" and (inside != inside.strip() or source[stop + 1 : stop + 2].isdigit())
        if not inside.strip() or money:
            return False
        if not silent:
            token = state.push("formula", "math", 0)
            token.content, token.block = inside, block
        state.pos = stop + len(end)
        return True
    return False


def _box(state: StateInline, silent: bool) -> bool:
    """An answer in a box, without marks of a formula around it, as models write it."""
    start, depth = state.pos + len(BOX), 1
    for at in range(start, min(len(state.src), start + BOXED)):
        depth += {"{": 1, "}": -1}.get(state.src[at], 0)
        if depth == 0:
            if not silent:
                token = state.push("formula", "math", 0)
                token.content, token.block = state.src[state.pos : at + 1], False
            state.pos = at + 1
            return True
    return False


def _shown(reader: RendererHTML, tokens: list[Token], at: int, options: OptionsDict, env: EnvType) -> str:
    return mathml(tokens[at].content.strip(), tokens[at].block)


def _as_link(reader: RendererHTML, tokens: list[Token], at: int, options: OptionsDict, env: EnvType) -> str:
    address = str(tokens[at].attrGet("src") or "")
    words = escape(tokens[at].content or address)
    return f'<a href="{escape(address)}">{words}</a>' if address else words


class Answer(ui.html):
    """An answer on a page, which may still be written."""

    def __init__(self) -> None:
        super().__init__("", sanitize=True)
        self.classes("prose")
        self.source = ""

    def show(self, text: str) -> None:
        """All that there is of it by now."""
        self.source = text
        self.set_content(html(text))
