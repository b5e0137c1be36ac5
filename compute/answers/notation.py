"""One notation for an answer: LaTeX, Unicode and Markdown that mean the same become the same characters.

All of this reads what models wrote, on the event loop: every function takes time linear in its text. So a pattern here
repeats nothing without bound in front of something it may give back.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from ponder.compute.answers.tables import listed

SET_OPENS, SET_CLOSES = "⟅", "⟆"
"""What `\\{` and `\\}` become: the braces of a set, other than those that group."""
DOLLAR = "＄"
"""A dollar that is money, other than one that opens mathematics."""

_SUPERSCRIPTS: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ", "0123456789+-ni")
_SUBSCRIPTS: Final = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋]+")
_VULGAR = re.compile("(\\d?)([¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])")
_CHARACTERS: Final = str.maketrans(
    {
        **dict.fromkeys("\u2212\ufe63\u2010\u2011", "-"),
        **dict.fromkeys("×⋅·∙∗", "*"),
        **dict.fromkeys("“”„«»", '"'),
        **dict.fromkeys("‘’‚´", "'"),
        **dict.fromkeys("。．", "."),
        "÷": "/",
        "⁄": "/",
        "∕": "/",
        "≦": "≤",
        "≧": "≥",
        "⩽": "≤",
        "⩾": "≥",
        "⌀": "∅",
        "㎡": "m^2",
        "㎥": "m^3",
        "㎠": "cm^2",
        "㎢": "km^2",
        "∶": ":",
        "〈": "⟨",
        "〉": "⟩",
        "\u200b": "",
        "\ufeff": "",
    }
)

_SYMBOLS: Final = {
    **dict.fromkeys(("times", "cdot", "ast", "bullet"), "*"),
    **dict.fromkeys(("le", "leq", "leqslant"), "≤"),
    **dict.fromkeys(("ge", "geq", "geqslant"), "≥"),
    **dict.fromkeys(("ne", "neq"), "≠"),
    **dict.fromkeys(("emptyset", "varnothing"), "∅"),
    **dict.fromkeys(("setminus", "smallsetminus", "backslash"), "∖"),
    **dict.fromkeys(("approx", "sim", "simeq", "thickapprox"), "≈"),
    **dict.fromkeys(("land", "wedge"), " and "),
    **dict.fromkeys(("lor", "vee"), " or "),
    **dict.fromkeys(("langle",), "⟨"),
    **dict.fromkeys(("rangle",), "⟩"),
    **dict.fromkeys(("dots", "ldots", "cdots"), "..."),
    **dict.fromkeys(("to", "rightarrow", "longrightarrow"), "→"),
    **dict.fromkeys(("lvert", "rvert", "vert", "mid"), "|"),
    **dict.fromkeys(("lbrace",), SET_OPENS),
    **dict.fromkeys(("rbrace",), SET_CLOSES),
    **dict.fromkeys(("degree", "degrees"), "°"),
    "lt": "<",
    "gt": ">",
    "div": "/",
    "pm": "±",
    "infty": "∞",
    "in": "∈",
    "cup": "∪",
    "cap": "∩",
    "angle": "∠",
    "triangle": "△",
    "parallel": "∥",
    "perp": "⊥",
    "equiv": "≡",
    "colon": ":",
    "prime": "'",
    "euro": "€",
    "pounds": "£",
    "yen": "¥",
    "textdollar": DOLLAR,
    "textdegree": "°",
    "celsius": "°C",
    "ohm": "Ω",
    "And": " and ",
    "lbrack": "[",
    "rbrack": "]",
    **dict(
        zip(
            listed("alpha beta gamma delta zeta eta theta iota kappa lambda mu nu xi"),
            "αβγδζηθικλμνξ",
            strict=True,
        )
    ),
    **dict(zip(listed("pi rho sigma tau upsilon phi chi psi omega"), "πρστυφχψω", strict=True)),
    **dict(zip(listed("Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"), "ΓΔΘΛΞΠΣΦΨΩ", strict=True)),
    **dict.fromkeys(("epsilon", "varepsilon"), "ε"),
    "varphi": "φ",
    "vartheta": "θ",
}
"""LaTeX's commands that stand for one character."""
_DROPPED: Final = frozenset(
    listed(
        "left right middle displaystyle textstyle scriptstyle limits nolimits big Big bigg Bigg bigl bigr "
        "Bigl Bigr biggl biggr Biggl Biggr bf rm it sf cal tt quad qquad thinspace enspace hfill centering "
        "large Large small normalsize boldmath nonumber hline"
    )
)
"""Those that change how a formula looks and not what it says."""
_WRAPS: Final = frozenset(
    listed(
        "text textbf textit textrm textsf texttt textnormal mathrm mathbf mathit mathsf mathtt mathnormal "
        "mathcal mathscr mbox hbox operatorname emph underline boldsymbol bm pmb boxed fbox framebox "
        "ensuremath vec hat unit si"
    )
)
"""Those whose argument is what they say."""
_SPELLED: Final = {"vec", "hat"}
"""Those of the former that say something about their argument; they are left as they are."""
_COLOURS: Final = ("color", "textcolor", "colorbox")
_FRACTIONS: Final = {"dfrac": "\\frac", "tfrac": "\\frac", "cfrac": "\\frac", "dbinom": "\\binom", "tbinom": "\\binom"}
_SETS: Final = {"R": "ℝ", "N": "ℕ", "Z": "ℤ", "Q": "ℚ", "C": "ℂ"}

_DOUBLED = re.compile(r"(?<!\\)\\\\(?=(?:d?frac|sqrt|pi|infty|cdot)(?![a-z]))")
"""A backslash too many before a command."""
_COMMAND = re.compile(r"\\(?:([a-zA-Z]+)\*?|(.)|$)", re.DOTALL)
_ARGUMENT = re.compile(r"\s*\{([^{}]*)\}")
_CIRCLE = re.compile(r"\^\s*(?:\{\s*)?(?:∘|°)(?:\s*\})?")
_OVER = re.compile(r"\{([^{}]+)\\over(?![a-zA-Z])([^{}]+)\}")
_WRAPPED = re.compile(r"\*\*\*?(.*?)\*?\*\*|__(.*)__|`+([^`]*)`+", re.DOTALL)
_PAIRED_DOLLARS = re.compile(r"\$([^$]*)\$(?!\d)")
_SPACES = re.compile(r"\s+")
_DASH = re.compile(r"(?<!\d)[–—]|[–—](?!\d)")
"""A dash that is a minus, and not between two numbers."""
_SEVERAL = re.compile(r"[^{}()\[\],]{1,20}(?:,(?!\d{3}(?!\d))[^{}()\[\],]{1,20})+")
_BRACES = re.compile(r"[{}]")
_EXCLAIMED = re.compile(r"[^\W\d_]{2}\s?!$")
_QUOTES = "\"'"
_ENDS = ".;,!、，；?"


def plain(answer: str) -> str:
    """The answer without what surrounds it (Markdown, quotes, dollars, boxes, a full stop) and in one notation."""
    text = answer.strip()
    while (wrapped := _WRAPPED.fullmatch(text)) and (inside := next(p for p in wrapped.groups() if p is not None)):
        text = inside.strip()
    text = _characters(_dollars(_DOUBLED.sub(r"\\", text).replace("\\displaystyle", " ")))
    text = _DASH.sub("-", text[:1] + text[1:].replace("~", " "))
    text = _commands(text)
    text = _CIRCLE.sub("°", text).replace("{,}", ",").replace("°°", "°")
    text = _SPACES.sub(" ", text).strip()
    text = _ends(text)
    while len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES and text[0] not in text[1:-1]:
        text = _ends(text[1:-1].strip())
    while grouped(text):
        inside = text[1:-1].strip()
        # Braces group, and those around several things are a set's that lost their backslashes.
        text = f"{SET_OPENS}{inside}{SET_CLOSES}" if _SEVERAL.fullmatch(inside) else inside
    return text


def grouped(text: str) -> bool:
    """It is one pair of braces and what is in it."""
    if text[:1] != "{" or text[-1:] != "}":
        return False
    depth = 0
    for brace in _BRACES.finditer(text):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return brace.end() == len(text)
    return False


def _ends(text: str) -> str:
    """Without the marks of a sentence and the line break behind it; a factorial's mark is none of them."""
    while text and (text[-1] in _ENDS or text.endswith("\\\\")):
        if text.endswith("...") or (text[-1] == "!" and not _EXCLAIMED.search(text)):
            break
        text = text[: -2 if text[-1] == "\\" else -1].rstrip()
    return text


def _dollars(text: str) -> str:
    """Dollars of money apart from those around mathematics."""
    text = text.replace("\\$", DOLLAR)
    if "$" not in text:
        return text
    if text.startswith("$$") and text.endswith("$$") and len(text) > 3:
        text = text[2:-2]
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1]
    text = _PAIRED_DOLLARS.sub(r" \1 ", text)
    return text.replace("$", DOLLAR).replace(f"US{DOLLAR}", DOLLAR)


def _characters(text: str) -> str:
    """Unicode's variants as the characters they vary."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", text)
    text = _LOWERED.sub(lambda m: f"_{{{m[0].translate(_SUBSCRIPTS)}}}", text)
    text = _VULGAR.sub(lambda m: m[1] + " " * bool(m[1]) + unicodedata.normalize("NFKC", m[2]), text)
    kept = text.replace(DOLLAR, "\ue000")
    text = unicodedata.normalize("NFKC", kept.translate(_CHARACTERS)).translate(_CHARACTERS)
    # A full-width dollar that a model wrote is money as well.
    return text.replace("$", DOLLAR).replace("\ue000", DOLLAR)


def _commands(text: str) -> str:
    """LaTeX's commands of one meaning as one; unknown ones stay."""
    if "\\" not in text:
        return text
    if "\\over" in text:
        text = _OVER.sub(r"\\frac{\1}{\2}", text)
    parts: list[str] = []
    at = 0
    while command := _COMMAND.search(text, at):
        parts.append(text[at : command.start()])
        at = command.end()
        name, sign = command[1], command[2]
        if name is None:
            parts.append(_sign(sign or ""))
        elif name in _SYMBOLS:
            parts.append(_SYMBOLS[name])
        elif name in _DROPPED:
            parts.append(" ")
            if name in ("left", "right", "middle") and text[at : at + 1] == ".":
                at += 1
        elif name == "circ":
            parts.append("∘")
        elif name in _COLOURS and (argument := _ARGUMENT.match(text, at)):
            at = argument.end()
        elif name in ("mathbb", "Bbb") and (argument := _ARGUMENT.match(text, at)):
            parts.append(_SETS.get(argument[1].strip(), argument[1]))
            at = argument.end()
        elif name in ("pmod", "pod") and (argument := _ARGUMENT.match(text, at)):
            parts.append(f" mod {argument[1]} ")
            at = argument.end()
        elif name in ("bmod", "mod"):
            parts.append(" mod ")
        elif name in ("ce", "chemfig") and (argument := _ARGUMENT.match(text, at)):
            parts.append(argument[1])
            at = argument.end()
        elif name in _WRAPS - _SPELLED and (argument := _ARGUMENT.match(text, at)):
            inside = _commands(argument[1])
            parts.append(f" {inside} " if name.startswith(("text", "mbox", "hbox")) else inside)
            at = argument.end()
        elif name in _WRAPS - _SPELLED and text[at : at + 1] == "{":
            # An argument with braces inside: the pair around it groups, which does no harm.
            parts.append(" ")
        else:
            parts.append(_FRACTIONS.get(name, f"\\{name}"))
    return "".join((*parts, text[at:]))


def _sign(sign: str) -> str:
    """A command of one character."""
    if sign in "{}":
        return {"{": SET_OPENS, "}": SET_CLOSES}.get(sign, "")
    if sign in "()[]!":
        return ""
    if sign in ",;: ":
        return " "
    if sign == "\\":
        return "\\\\"
    if sign == "|":
        return "‖"
    return sign
