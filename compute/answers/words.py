"""Words, formulas of chemistry and choices as answers."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Final

from ponder.compute.answers.tables import listed

_ELEMENTS: Final = frozenset(
    listed(
        "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb "
        "Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu "
        "Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr"
    )
)
_FORMULA = re.compile(r"(?:\d{0,2})(?:[A-Z][a-z]?\d{0,3}|\((?:[A-Z][a-z]?\d{0,3}){1,6}\)\d{0,3})+(?:\^?\d?[+-])?")
_SYMBOL = re.compile(r"[A-Z][a-z]?")
_INDEX = re.compile(r"_\s?(?:\{\s?(\d{1,3})\s?\}|(\d))")
_CHARGE = re.compile(r"\^\s?\{?\s?(\d?[+-])\s?\}?$")
_ARTICLE = re.compile(r"^(?:the|an?|le|la|les|el|los|las|der|die|das)\s+(?=\S)")
_FIGURE = re.compile(r"([∠△])\s")
_FULL_STOPS = re.compile(r"(?<!\d)\.|\.(?!\d)")
_CODE = re.compile(r"[(){}\[\]_=<>;\\]")
_SHORT: Final = frozenset(
    listed("dne yes no true false ok none si sí ja da oui non nein не да нет up on off left we he it")
)
"""Words that may be written in any case."""
_NOTHING: Final = frozenset(
    ("no solution", "no solutions", "empty set", "the empty set", "无解", "空集", "keine lösung", "sin solución")
)
_EVERYTHING: Final = frozenset(("all real numbers", "all reals", "the set of all real numbers", "全体实数", "任意实数"))
_CHOICE_WORD = (
    r"(?i:(?:the\s+)?(?:option|choice|answer|letter|opción|opcion|opzione|réponse|antwort|вариант|"
    r"选项|選項|选择|选|選|보기|선택지|정답)\s?:?\s?)"
)
_LETTER = re.compile(rf"{_CHOICE_WORD}?\(?([A-Z])\)?[.:)]?", re.IGNORECASE)
_LABELLED = re.compile(
    rf"{_CHOICE_WORD}?(?:\(([A-Z])\)|([A-Z])\))(?!\s*(?:[-+*/=^,;&|)]|(?:and|or)\b))\s*(.+)", re.DOTALL
)
_POINTED = re.compile(r"([A-J])(?:\.\s+|:\s*)(.+)", re.DOTALL)
_NUMBERED = re.compile(rf"{_CHOICE_WORD}\(?(\d{{1,2}})\)?")
_SEVERAL_LABELS = re.compile(r"(?:^|[\s,;])\(?[A-Z][):.=]\s?\S")
_NAME = re.compile(r"[^\W\d_]\S*|(?:[A-Z]\.\s?)+\S+")


def formula(text: str) -> str | None:
    """A chemical formula in one writing; None for what is none. A lone symbol, which may be a word, is none."""
    bare = _CHARGE.sub(r"^\1", _INDEX.sub(lambda m: m[1] or m[2], text)).replace(" ", "")
    if not _FORMULA.fullmatch(bare) or not _ELEMENTS.issuperset(symbols := _SYMBOL.findall(bare)):
        return None
    if len(symbols) == 1 and not (bare != symbols[0] and ("_" in text or bare[-1:] in "+-" or bare[-1:].isdigit())):
        return None
    if bare.isupper() and bare.isalpha() and (len(bare) > 4 or bare.casefold() in _SHORT):
        return None
    return bare if "_" in text or any(c.isdigit() or c.islower() for c in bare) or bare.isupper() else None


def choice(text: str) -> tuple[str, str | None] | None:
    """(letter, label) of a choice: the label where what stands behind the letter may as well be the rest of a name
    (E. coli), else None. None for what is no choice."""
    if (found := _LETTER.fullmatch(text)) is not None and found[1].isupper():
        return found[1], None
    if len(_SEVERAL_LABELS.findall(text[:200])) > 1:
        return None
    if (found := _LABELLED.fullmatch(text)) is not None and (found[1] or found[2]).isupper():
        return found[1] or found[2], None
    if (found := _POINTED.fullmatch(text)) is not None:
        rest = found[2].strip()
        return found[1], rest if _NAME.fullmatch(rest) else None
    return None


def numbered(text: str) -> str | None:
    """The number of a choice that is named as one: option 3."""
    found = _NUMBERED.fullmatch(text)
    return None if found is None else found[1]


def nothing(text: str) -> bool:
    """It says that there is no solution."""
    return text.casefold() in _NOTHING


def everything(text: str) -> bool:
    """It says that all real numbers are."""
    return text.casefold() in _EVERYTHING


def worded(text: str) -> Hashable:
    """What other texts are compared by: code as it is, words without case, article and full stops. Words of up to two
    letters keep their case: Co is not CO, and c not C."""
    if _CODE.search(text):
        return "text", text
    text = _FIGURE.sub(r"\1", text)
    words = " ".join(_FULL_STOPS.sub("", text).replace("-", " ").split())
    folded = words.casefold()
    if folded in _SHORT:
        return "word", folded
    if len(words) <= 2 or (len(words) <= 3 and (words.isupper() or not (words.islower() or words.istitle()))):
        return "text", words
    return "word", _ARTICLE.sub("", folded, count=1)
