"""Numbers as people write them: with separators, as mixed numbers, with repeating decimals, in words of several
languages. Each is read exactly, or not at all."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from ponder.compute.answers.tables import listed

_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+|\d{1,3}(?:[ '_]\d{3})+")
_SIGNED = r"([-+]?)\s?"
_DIGITS = rf"({_THOUSANDS.pattern}|\d+)"
_DECIMAL = re.compile(rf"{_SIGNED}(?:{_DIGITS}(\.\d*)?|(\.\d+))(?:[eE]([-+]?\d{{1,3}}))?")
_REPEATING = re.compile(rf"{_SIGNED}(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s?\{{\s?(\d+)\s?\}}|\((\d+)\)|(\d*)\.\.\.)")
_DOTTED = re.compile(r"\\dot\s?\{?(\d)\}?(\d*)\\dot\s?\{?(\d)\}?")
_POWER_OF_TEN = re.compile(r"(.*?)\s?\*?\s?10\s?(?:\^|\*\*)\s?(?:\{\s?([-+]?\d{1,3})\s?\}|([-+]?\d{1,3}))")
_FRACTION = (
    r"(?:\\frac\s?(?:\{\s?([-+]?\d+)\s?\}\s?\{\s?(\d+)\s?\}|(\d)\s?(\d)|"
    r"(\d)\s?\{\s?(\d+)\s?\}|\{\s?(\d+)\s?\}\s?(\d))|([-+]?\d+)\s?/\s?(\d+))"
)
_ONE_FRACTION = re.compile(rf"{_SIGNED}(?:{_FRACTION})")
_MIXED = re.compile(rf"{_SIGNED}{_DIGITS}\s?(?:(and|&|\+)\s?)?(?:{_FRACTION})")

_ONES: Final = {
    **{word: i for i, word in enumerate(listed("zero one two three four five six seven eight nine ten eleven twelve"))},
    **{
        word: 13 + i
        for i, word in enumerate(["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"])
    },
}
_TENS: Final = {
    word: 10 * (2 + i)
    for i, word in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"])
}
SCALES: Final = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
"""Words that multiply the number before them."""
_PARTS: Final = {
    "half": 2,
    "halves": 2,
    **{
        word + s: 3 + i
        for i, word in enumerate(["third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"])
        for s in ("", "s")
    },
    "quarter": 4,
    "quarters": 4,
}
_FOREIGN: Final = {
    word: i
    for words in (
        "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf",
        "zéro un deux trois quatre cinq six sept huit neuf dix onze douze",
        "cero uno dos tres cuatro cinco seis siete ocho nueve diez",
        "zero um dois três quatro cinco seis sete oito nove dez",
        "zero uno due tre quattro cinque sei sette otto nove dieci",
        "ноль один два три четыре пять шесть семь восемь девять десять",
        "영 일 이 삼 사 오 육 칠 팔 구 십",
        "공 하나 둘 셋 넷 다섯 여섯 일곱 여덟 아홉 열",
    )
    for i, word in enumerate(words.split())
}
for _english_too in ("null", "due", "elf", "um", "un", "sept", "sei", "이", "일", "영", "공"):
    del _FOREIGN[_english_too]  # They are words of other meanings, too.
_HAN: Final = dict(zip("零〇一二两三四五六七八九", (0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9), strict=True))
_HAN_TENS: Final = {"十": 10, "百": 100, "千": 1000}
_HAN_SCALES: Final = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_HAN_NUMBER = re.compile("负?[零〇一二两三四五六七八九十百千万萬亿億]+")
_SPLIT_WORDS = re.compile(r"[ -]+")


def whole(text: str) -> int | None:
    """Digits with or without separators of thousands."""
    digits = _DECIMAL.fullmatch(text)
    if digits is None or digits[3] or digits[4] or digits[5]:
        return None
    return int(_joined(text.replace(" ", "") if digits[1] else text))


def _joined(digits: str) -> str:
    return re.sub("[ ,'_]", "", digits)


def numeral(text: str) -> Fraction | None:
    """The value of a literal number: an integer, a decimal, a fraction, a mixed number, a product with a power of ten.
    None for any other text, and for what can be read in two ways (`2\\frac{3}{2}`)."""
    text = text.strip()
    if not text or not any(c.isdigit() for c in text):
        return None
    if (found := decimal(text)) is not None:
        return found[0]
    if (found := _ONE_FRACTION.fullmatch(text)) is not None:
        return _signed(found[1], _fraction(found.groups()[1:]))
    if (found := _MIXED.fullmatch(text)) is not None:
        part = _fraction(found.groups()[3:])
        if part is None or not 0 < part < 1:
            return None
        return _signed(found[1], int(_joined(found[2])) + part)
    if (found := _POWER_OF_TEN.fullmatch(text)) is not None:
        head = found[1].strip().rstrip("*").strip()
        first = {"": Fraction(1), "-": Fraction(-1), "+": Fraction(1)}.get(head) or numeral(head)
        power = int(found[2] or found[3])
        return None if first is None else first * Fraction(10) ** power
    return _repeating(text)


def decimal(text: str) -> tuple[Fraction, int] | None:
    """(value, significant digits behind the point) of an integer or a decimal."""
    found = _DECIMAL.fullmatch(text)
    if found is None:
        return None
    sign, digits, behind, only, power = found.groups()
    written = (_joined(digits) if digits else "0") + (behind or only or "")
    value = Fraction(written.rstrip(".")) * Fraction(10) ** int(power or 0)
    places = len((behind or only or ".").lstrip("."))
    significant = len(written.replace(".", "").lstrip("0")) if places else 0
    return (-value if sign == "-" else value), significant


def _signed(sign: str, value: Fraction | None) -> Fraction | None:
    return -value if sign == "-" and value is not None else value


def _fraction(digits: tuple[str | None, ...]) -> Fraction | None:
    """The two that are there of the numbers that a fraction's pattern found."""
    above, below = (int(part) for part in digits if part is not None)
    return Fraction(above, below) if below else None


def _repeating(text: str) -> Fraction | None:
    text = _DOTTED.sub(r"\\overline{\1\2\3}", text)
    found = _REPEATING.fullmatch(text)
    if found is None:
        return None
    sign, before, once, over, round_, dots = found.groups()
    again = over or round_
    if again is None:
        # 0.333...: the digits before the dots show what repeats.
        once += dots or ""
        again = next((once[-n:] for n in range(1, 1 + len(once) // 3) if once.endswith(once[-n:] * 3)), None)
        if not again:
            return None
        while once.endswith(again):
            once = once.removesuffix(again)
    fixed = Fraction(int(before or 0)) + (Fraction(int(once), 10 ** len(once)) if once else 0)
    value = fixed + Fraction(int(again), 10 ** len(once) * (10 ** len(again) - 1))
    return -value if sign == "-" else value


def worded(text: str) -> Fraction | None:
    """The value of a number in words: English up to the trillions and its fractions, Chinese, and the first numbers of
    some other languages."""
    if _HAN_NUMBER.fullmatch(text):
        return _han(text)
    words = [word for word in _SPLIT_WORDS.split(text.casefold()) if word]
    if len(words) == 1 and words[0] in _FOREIGN:
        return Fraction(_FOREIGN[words[0]])
    negative = bool(words) and words[0] in ("minus", "negative")
    if not words[negative:] or len(words) > 12:
        return None
    value = _english(words[negative:])
    return -value if negative and value is not None else value


def _english(words: list[str]) -> Fraction | None:
    if words[-1] in _PARTS and words not in (["third"], ["fourth"]):
        return _english_fraction(words)
    total, group, last = 0, 0, 10**15
    start = True
    for i, word in enumerate(words):
        if word == "and" and 0 < i < len(words) - 1 and words[i - 1] in SCALES:
            continue
        if word in ("a", "an") and start and len(words) > 1 and words[i + 1] in SCALES:
            group = 1
        elif word in _ONES and group % (100 if _ONES[word] > 9 else 10) == 0 and (group % 100 == 0 or _ONES[word] < 10):
            group += _ONES[word]
        elif word in _TENS and group % 100 == 0:
            group += _TENS[word]
        elif word in ("hundred", "dozen") and 0 < group < 100:
            group *= SCALES[word]
        elif word in SCALES and group and SCALES[word] < last:
            last = SCALES[word]
            total, group = total + group * last, 0
        elif start and word in SCALES and word != "dozen" and len(words) == 1:
            return Fraction(SCALES[word])
        else:
            return None
        start = False
    return Fraction(total + group)


def _english_fraction(words: list[str]) -> Fraction | None:
    """Two thirds, one and a half."""
    *before, part = words
    if "and" in before:
        at = len(before) - 1 - before[::-1].index("and")
        first, rest = _english(before[:at]) if at else None, _english_fraction([*before[at + 1 :], part])
        return None if first is None or rest is None or rest >= 1 else first + rest
    if before in ([], ["a"], ["an"]):
        # "Third" alone is a place in a row.
        return Fraction(1, _PARTS[part]) if part in ("half", "quarter") or before else None
    above = _english(before)
    return None if above is None else Fraction(int(above), _PARTS[part])


def _han(text: str) -> Fraction | None:
    """Chinese numerals."""
    negative = text.startswith("负")
    total = group = digit = 0
    digits = text.removeprefix("负")
    if len(digits) > 1 and all(c in _HAN for c in digits):
        value = int("".join(str(_HAN[c]) for c in digits))
        return Fraction(-value if negative else value)
    for c in digits:
        if c in _HAN:
            digit = _HAN[c]
        elif c in _HAN_TENS:
            group, digit = group + (digit or 1) * _HAN_TENS[c], 0
        else:
            total, group, digit = (total + group + digit) * _HAN_SCALES[c], 0, 0
    value = total + group + digit
    return Fraction(-value if negative else value)
