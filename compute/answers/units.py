"""Units of measure and currencies, by symbol and by name, and the nouns of what is counted.

A small table: Pint would know more and take a second to import into a process that serves. A unit is a factor and what
it measures, so that 1 m is 100 cm. What is counted measures itself: apples are no oranges.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from ponder.compute.answers.tables import listed

Measured = tuple[tuple[str, int], ...]
"""What a unit measures: base dimensions and their powers, sorted."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A factor to the base units of what it measures."""

    measures: Measured
    factor: Fraction = Fraction(1)

    def __mul__(self, other: Unit) -> Unit:
        powers = Counter(dict(self.measures))
        for name, power in other.measures:
            powers[name] += power
        return Unit(tuple(sorted((n, p) for n, p in powers.items() if p)), self.factor * other.factor)

    def __pow__(self, power: int) -> Unit:
        return Unit(tuple((n, p * power) for n, p in self.measures if p * power), self.factor**power)


PERCENT: Final = Unit((("percent", 1),))
DEGREE: Final = Unit((("degree", 1),))


def _of(**powers: int) -> Measured:
    return tuple(sorted(powers.items()))


_LENGTH, _MASS, _TIME, _MONEY = _of(length=1), _of(mass=1), _of(time=1), _of(dollar=1)
_VOLUME, _AREA = _of(length=3), _of(length=2)
_FORCE, _ENERGY, _POWER = (_of(mass=1, length=n, time=t) for n, t in ((1, -2), (2, -2), (2, -3)))
_ROWS: Final[tuple[tuple[str, str, Measured, str], ...]] = (
    # symbols, names, what it measures, factor
    ("m", "meter metre meters metres 米", _LENGTH, "1"),
    ("km KM Km", "kilometer kilometre kilometers kilometres 千米 公里 킬로미터", _LENGTH, "1000"),
    ("cm CM", "centimeter centimetre centimeters centimetres 厘米 公分 センチ 센티미터", _LENGTH, "1/100"),
    ("mm", "millimeter millimetre millimeters millimetres 毫米", _LENGTH, "1/1000"),
    ("dm", "decimeter decimetre decimeters decimetres 分米", _LENGTH, "1/10"),
    ("μm um", "micrometer micrometre micrometers micrometres micron microns", _LENGTH, "1/1000000"),
    ("nm", "nanometer nanometre nanometers nanometres", _LENGTH, "1/1000000000"),
    ("in", "inch inches 英寸", _LENGTH, "254/10000"),
    ("ft", "foot feet 英尺", _LENGTH, "3048/10000"),
    ("yd yds", "yard yards", _LENGTH, "9144/10000"),
    ("mi", "mile miles 英里", _LENGTH, "1609344/1000"),
    ("", "hectare hectares 公顷", _AREA, "10000"),
    ("", "acre acres", _AREA, "316160658/78125"),
    ("L l", "liter litre liters litres 升 리터", _VOLUME, "1/1000"),
    ("mL ml", "milliliter millilitre milliliters millilitres 毫升", _VOLUME, "1/1000000"),
    ("cc", "", _VOLUME, "1/1000000"),
    ("gal", "gallon gallons", _VOLUME, "3785411784/1000000000000"),
    ("qt", "quart quarts", _VOLUME, "946352946/1000000000000"),
    ("pt", "pint pints", _VOLUME, "473176473/1000000000000"),
    ("", "cup cups", _of(cup=1), "1"),
    ("kg Kg KG", "kilogram kilogramme kilograms kilogrammes 千克 公斤 킬로그램", _MASS, "1"),
    ("g", "gram gramme grams grammes 克 그램", _MASS, "1/1000"),
    ("mg", "milligram milligrams 毫克", _MASS, "1/1000000"),
    ("μg", "microgram micrograms", _MASS, "1/1000000000"),
    ("", "tonne tonnes 吨", _MASS, "1000"),
    ("", "ton tons", _of(ton=1), "1"),
    ("lb lbs", "pound pounds", _MASS, "45359237/100000000"),
    ("oz", "ounce ounces", _MASS, "45359237/1600000000"),
    ("s sec secs", "second seconds 秒 초", _TIME, "1"),
    ("ms", "millisecond milliseconds 毫秒", _TIME, "1/1000"),
    ("μs", "microsecond microseconds", _TIME, "1/1000000"),
    ("ns", "nanosecond nanoseconds", _TIME, "1/1000000000"),
    ("min mins", "minute minutes 分钟 分鐘 분", _TIME, "60"),
    ("h hr hrs", "hour hours 小时 小時 时间 時間 시간 Stunden heures horas", _TIME, "3600"),
    ("", "day days 天 日 일 Tage jours días dias", _TIME, "86400"),
    ("wk wks", "week weeks 周 星期", _TIME, "604800"),
    ("", "month months 个月 개월", _of(month=1), "1"),
    ("yr yrs", "year years 年 岁 歳 년 살", _of(month=1), "12"),
    ("N", "newton newtons 牛顿 牛", _FORCE, "1"),
    ("kN", "kilonewton kilonewtons", _FORCE, "1000"),
    ("J", "joule joules 焦耳 焦", _ENERGY, "1"),
    ("kJ", "kilojoule kilojoules 千焦", _ENERGY, "1000"),
    ("MJ", "megajoule megajoules", _ENERGY, "1000000"),
    ("cal", "calorie calories", _ENERGY, "4184/1000"),
    ("kcal", "kilocalorie kilocalories", _ENERGY, "4184"),
    ("eV", "electronvolt electronvolts", _of(electronvolt=1), "1"),
    ("Wh", "", _ENERGY, "3600"),
    ("kWh", "", _ENERGY, "3600000"),
    ("W", "watt watts 瓦 瓦特", _POWER, "1"),
    ("kW", "kilowatt kilowatts 千瓦", _POWER, "1000"),
    ("MW", "megawatt megawatts", _POWER, "1000000"),
    ("mW", "milliwatt milliwatts", _POWER, "1/1000"),
    ("hp", "horsepower", _of(horsepower=1), "1"),
    ("Pa", "pascal pascals 帕", _of(mass=1, length=-1, time=-2), "1"),
    ("kPa", "kilopascal kilopascals", _of(mass=1, length=-1, time=-2), "1000"),
    ("MPa", "megapascal megapascals", _of(mass=1, length=-1, time=-2), "1000000"),
    ("atm", "atmosphere atmospheres", _of(atmosphere=1), "1"),
    ("bar", "", _of(mass=1, length=-1, time=-2), "100000"),
    ("Hz", "hertz 赫兹", _of(cycle=1, time=-1), "1"),
    ("kHz", "kilohertz", _of(cycle=1, time=-1), "1000"),
    ("MHz", "megahertz", _of(cycle=1, time=-1), "1000000"),
    ("GHz", "gigahertz", _of(cycle=1, time=-1), "1000000000"),
    ("V", "volt volts 伏", _of(volt=1), "1"),
    ("mV", "millivolt millivolts", _of(volt=1), "1/1000"),
    ("kV", "kilovolt kilovolts", _of(volt=1), "1000"),
    ("A", "ampere amperes amp amps 安", _of(ampere=1), "1"),
    ("mA", "milliampere milliamperes milliamp milliamps", _of(ampere=1), "1/1000"),
    ("C", "coulomb coulombs", _of(coulomb=1), "1"),
    ("Ω", "ohm ohms 欧", _of(ohm=1), "1"),
    ("kΩ", "kiloohm kiloohms", _of(ohm=1), "1000"),
    ("F", "farad farads", _of(farad=1), "1"),
    ("T", "tesla teslas", _of(tesla=1), "1"),
    ("Wb", "weber webers", _of(weber=1), "1"),
    ("K", "kelvin kelvins", _of(kelvin=1), "1"),
    ("°C", "celsius 摄氏度", _of(celsius=1), "1"),
    ("°F", "fahrenheit 华氏度", _of(fahrenheit=1), "1"),
    ("mol", "mole moles 摩尔", _of(mole=1), "1"),
    ("mmol", "millimole millimoles", _of(mole=1), "1/1000"),
    ("rad", "radian radians 弧度", _of(radian=1), "1"),
    ("° deg", "degree degrees 度 도 Grad grados degrés", _of(degree=1), "1"),
    ("", "revolution revolutions", _of(cycle=1), "1"),
    ("B", "byte bytes", _of(byte=1), "1"),
    ("KB kB", "kilobyte kilobytes", _of(kilobyte=1), "1"),
    ("MB", "megabyte megabytes", _of(megabyte=1), "1"),
    ("GB", "gigabyte gigabytes", _of(gigabyte=1), "1"),
    ("TB", "terabyte terabytes", _of(terabyte=1), "1"),
    ("", "bit bits", _of(bit=1), "1"),
    ("＄ USD US＄ $", "dollar dollars 美元 달러", _MONEY, "1"),
    ("¢", "cent cents 美分", _MONEY, "1/100"),
    ("€ EUR", "euro euros 欧元 유로", _of(euro=1), "1"),
    ("£ GBP", "", _of(sterling=1), "1"),
    ("¥ JPY", "yen 日元 円 엔", _of(yen=1), "1"),
    ("CNY RMB", "yuan 元 块 块钱 人民币", _of(yuan=1), "1"),
    ("₹ INR Rs", "rupee rupees 卢比", _of(rupee=1), "1"),
    ("₩ KRW", "won 원 韩元", _of(won=1), "1"),
    ("₽ RUB", "ruble rubles rouble roubles рублей рубль рубля", _of(ruble=1), "1"),
    ("% ％", "percent pct 百分之 퍼센트 Prozent процентов", _of(percent=1), "1"),
    ("", "unit units 单位", _of(unit=1), "1"),
)
_SYMBOLS: Final = {
    symbol: Unit(measures, Fraction(factor)) for symbols, _, measures, factor in _ROWS for symbol in symbols.split()
}
_NAMES: Final = {
    name.casefold(): Unit(measures, Fraction(factor)) for _, names, measures, factor in _ROWS for name in names.split()
}
_SPEEDS: Final = {
    "mph": _NAMES["mile"] * _NAMES["hour"] ** -1,
    "kph": _NAMES["kilometer"] * _NAMES["hour"] ** -1,
    "kmh": _NAMES["kilometer"] * _NAMES["hour"] ** -1,
    "fps": _NAMES["foot"] * _NAMES["second"] ** -1,
    "mps": _SYMBOLS["m"] * _NAMES["second"] ** -1,
    "rpm": Unit(_of(cycle=1, time=-1), Fraction(1, 60)),
    "sqft": _NAMES["foot"] ** 2,
}
CURRENCIES: Final = ("US＄", "＄", "€", "£", "¥", "₹", "₩", "₽", "¢")
"""Signs that stand before the number, or behind it."""
_RAISING: Final = {"square": 2, "sq": 2, "sq.": 2, "squared": 2, "cubic": 3, "cu": 3, "cu.": 3, "cubed": 3}
_HAN_RAISING: Final = {"平方": 2, "立方": 3}
_COUNTERS: Final = frozenset(
    listed(
        "个 個 只 隻 人 名 位 条 條 本 件 张 張 枚 颗 顆 棵 朵 辆 輛 台 头 頭 匹 "
        "种 種 次 倍 组 組 对 瓶 盒 支 双 套 层 页 题 道 排 袋 箱 間 つ 匹 冊 回 "
        "杯 개 명 권 마리 번 가지 장 그루 대 송이 배 "
    )
)
"""Words of Chinese, Japanese and Korean between a number and what is counted."""
_NO_NOUNS: Final = frozenset(
    listed(
        "a about above across after ago again all also although am among an and another any are as at be "
        "because been before behind below beneath beside between beyond both but by can ce bc bce centuries "
        "choose cubed decrease degrees difference divided does down during each either else equals even "
        "except factorial factors false far few fewer fifths first for from further greater half halves had "
        "has have hence his hundreds hundred hundredths if in increase infinite into is its itself larger "
        "last later least less lies lower many maximum millions billions trillions mod modulo minimum minus "
        "more most much multiple multiples negative neither no none nor not nothing odds of off on once one "
        "or other others otherwise ours out over past per perhaps pm plus point possibly positive power "
        "powers previous quarters remainder remaining root same second seconds sevenths shy sixths smaller "
        "solutions some squared squares starts still than that the their then there these third thirds this "
        "those though thousand thousands thousandths tenths eighths ninths through thus till times to today "
        "too total true twice under unless unlike until unlikely up upon values very versus vs was were "
        "whereas whether which while with within without worse yes yet always across plus minus sometimes "
        "tens ones dozens scores fourths times"
    )
)
"""Words that make something else of a number before them than so many of a thing."""
_IRREGULAR: Final = frozenset(
    listed(
        "people children men women feet teeth mice geese fish sheep deer oxen dice cattle police money water "
        "students species series"
    )
)
_DEGREES_OF = re.compile(r"^degrees?\s(?=celsius|fahrenheit|c$|f$)", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_PIECE = re.compile(
    r"(per\b)|([/*⋅])|(\()|(\))|(°\s?[CF](?![A-Za-z])|[°%％¢＄€£¥₹₩₽$]|[^\W\d_]+\.?)\s?(?:\^\s?(?:\{\s?(-?\d)\s?\}|(-?\d)))?|(-)"
)
_HAN = re.compile("[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]")


def unit(text: str) -> Unit | None:
    """The unit a text names, or what it says is counted; None where it is neither."""
    text = _DEGREES_OF.sub("", text.strip())
    if not text or len(text) > 60:
        return None
    return _measure(text) or _noun(text)


def symbolic(text: str) -> bool:
    """It is one letter, which may as well be a variable."""
    return len(text.strip()) == 1 and text.strip().isalpha() and not _HAN.match(text.strip())


def _measure(text: str) -> Unit | None:
    """The product of the known units in a text."""
    if _HAN.search(text):
        return _han(text)
    result = Unit(())
    at, sign, raising, waiting = 0, 1, 1, True
    while at < len(text):
        if text[at] == " ":
            at += 1
            continue
        piece = _PIECE.match(text, at)
        if piece is None or piece[3] or piece[4]:
            return None
        at = piece.end()
        if piece[1] or piece[2] or piece[8]:
            if waiting:
                return None
            sign = -1 if piece[1] or piece[2] == "/" else sign
            waiting = True
            if piece[8]:
                return None
            continue
        word = piece[5]
        if (power := _RAISING.get(word.casefold())) is not None:
            if word.casefold() in ("squared", "cubed"):
                return None
            raising = power
            continue
        found = _known(word)
        if found is None:
            return None
        result = result * found ** (sign * raising * int(piece[6] or piece[7] or 1))
        raising, waiting = 1, False
    return None if waiting or raising != 1 else result


def _known(word: str) -> Unit | None:
    word = word.replace(" ", "")
    bare = word.rstrip(".")
    return _SYMBOLS.get(bare) or _NAMES.get(bare.casefold()) or _SPEEDS.get(bare.casefold())


def _han(text: str) -> Unit | None:
    """A unit in Chinese, Japanese or Korean, or a counting word with what is counted."""
    for suffix in ("입니다", "です", "이다"):
        text = text.removesuffix(suffix)
    text = text.strip()
    if "/" in text or "每" in text:
        above, _, below = text.partition("/" if "/" in text else "每")
        first, second = _han(above), _han(below)
        return None if first is None or second is None else first * second**-1
    for word, power in _HAN_RAISING.items():
        if text.startswith(word) and (found := _NAMES.get(text.removeprefix(word))):
            return found**power
    if (found := _NAMES.get(text)) is not None:
        return found
    counter = next((c for c in sorted(_COUNTERS, key=len, reverse=True) if text.startswith(c)), None)
    if counter is None or not all(_HAN.match(c) for c in text) or len(text) > 6:
        return None
    rest = text.removeprefix(counter)
    return Unit((("counted " + (rest or "things"), 1),)) if not rest else Unit((("counted " + rest, 1),))


def _noun(text: str) -> Unit | None:
    """What is counted: up to four words, the last one in the plural, none of them one that reckons."""
    words = [word.casefold() for word in text.split()]
    if not 1 <= len(words) <= 4 or not all(_WORD.fullmatch(word) for word in words):
        return None
    if words[0] == "of" or any(word in _NO_NOUNS for word in words):
        return None
    last = words[-1]
    if len(last) < 3 or not (last in _IRREGULAR or last.endswith(("s", "x"))) or last.endswith(("ss", "ous")):
        return None
    if last.endswith("x"):
        return None
    return Unit((("counted " + " ".join(map(_singular, words)), 1),))


def one_of(text: str) -> Unit | None:
    """What is counted, where it is only one: "1 apple"."""
    words = [word.casefold() for word in text.split()]
    if not 1 <= len(words) <= 3 or any(word in _NO_NOUNS or not _WORD.fullmatch(word) for word in words):
        return None
    return Unit((("counted " + " ".join(map(_singular, words)), 1),)) if len(words[-1]) > 2 else None


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word.removesuffix("s") if len(word) > 3 else word
