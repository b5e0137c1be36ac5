"""The words by which texts of several languages say that their answer follows, or that they have none."""

from __future__ import annotations

import re
from typing import Final

ANSWER_IS: Final = re.compile(
    r"""(?:
      \b(?:answer|result)\b(?:\s{1,16}+to\s{1,16}+[^.\n]{1,80}?)?[ *_]{0,8}(?::|=|\bis\b|\bwould\s{1,16}be\b)
    | \bcorrect\s(?:choice|option|statement|one)\b[ *_]{0,8}(?::|=|\bis\b|\bwould\s{1,16}be\b)
    | ^\#\#\#\#(?!\#)
    | ^[ #*_>]{0,8}(?:the\s)?(?:final\s|correct\s|exact\s|short\s)?answer[ *_:]{0,8}$
    | (?:答案|正解|答え)\s?(?:应该|应|就)?(?:是|为|為|選|选|は)\s?[:：]? | 答案[ *_]{0,6}[:：] | ^[ *_]{0,6}答\s?[:：]
    | 故?(?:应|正确)?(?:选|選)(?:择|項|项)?(?:是|为)?\s?[:：]?(?=[\s*(（]{0,4}[A-Z])
    | 结果[是为][:：]? | 최종\s?답[은:]? | (?:정답|답)\s?(?:은|는|:)
    | \b(?:antwort|ergebnis|lösung)\b[ *_]{0,6}(?::|\b(?:ist|lautet)\b)
    | \b(?:respuesta|resultado)\b(?:\s(?:final|correcta))?[ *_]{0,6}(?::|\b(?:es|sería)\b)
    | \b(?:réponse|résultat)\b(?:\s(?:finale|correcte))?[ *_]{0,6}(?:[:：]|\best\b)
    | \b(?:risposta|risultato)\b(?:\s(?:finale|corretta))?[ *_]{0,6}(?::|\bè)
    | \b(?:resposta)\b(?:\s(?:final|correta))?[ *_]{0,6}(?::|\bé)
    | \bответ\b[ *_]{0,6}(?::|—|-|\bравен\b)
    )[\s*_:：]{0,16}""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
"""Also a heading that says no more, and GSM8K's four signs."""

CONCLUDES: Final = re.compile(
    r"(?:so|thus|hence|therefore|consequently|in total|in all|altogether|overall|finally|in conclusion|as a result|"
    r"it follows that|this means|we (?:get|find|have|obtain|conclude)|综上(?:所述)?|因此|所以|故|also|daher|folglich|"
    r"donc|ainsi|por lo tanto|entonces|logo|portanto|quindi|следовательно|итак|따라서|그러므로|したがって|よって)"
    r"[,:，：]?\s{0,4}(?:that\s)?",
    re.IGNORECASE,
)
"""The words a last sentence begins with that draws the conclusion."""

NO_ANSWER: Final = re.compile(
    r"(?:i|we|it|sorry|hm+|um+|uh+|ok|okay|well|sure|so|unknown|unsure|unclear|unable|none given|n/a|not|"
    r"no idea|cannot|left|in the|given|shown|below|above|as follows|not enough|there is|there are|undetermined|"
    r"待定|未知|不确定)\b",
    re.IGNORECASE,
)
"""What follows such words, or stands alone, and is no answer."""

ENDS: Final = re.compile(r"(?:입니다|이다|です|である|。|に なります)\s*$")
"""What closes a sentence of Korean or Japanese behind the answer."""

REASON: Final = re.compile(
    r"\s(?:because|since|as shown|which|weil|porque|parce que|потому)\b|(?:，|,)?(?:因为)", re.IGNORECASE
)

CHOSEN: Final = re.compile(
    r"^[ *_>]{0,6}(?:(?:so|thus|therefore),?\s)?(?:option\s|choice\s)?"
    r"(?!(?:what|which|this|that|it|here|there|who)\b)(\(?[A-Z]\)?|\S{1,30})[*_]{0,3}\s"
    r"(?:is|would be)\s(?:the\s)?(?:(?:correct|right|best|final)\s)?(?:answer|choice|option)\b|"
    r"^[ *_>]{0,6}(?:(?i:option|choice)\s)?(?-i:(\(?[A-Z]\)?))[*_]{0,3}\sis\s(?:correct|right)\b",
    re.IGNORECASE | re.MULTILINE,
)
"""B is the correct answer."""

ASKS_FOR_A_NUMBER: Final = re.compile(
    r"\bhow (?:many|much|old|far|long|tall|fast|high|deep|wide|often|big|large)\b|"
    r"\b(?:find|compute|calculate|evaluate|determine|solve)\b|\bwhat (?:is|are|was|were|would be) the (?:\w+ ){0,3}?"
    r"(?:value|number|sum|total|product|difference|ratio|probability|area|volume|perimeter|length|distance|speed|cost|"
    r"price|percentage|percent|average|mean|median|remainder|height|width|age|amount|time|weight|mass|angle|radius|"
    r"profit|minimum|maximum|least|greatest|largest|smallest)\b|\bwhat percent|多少|几|求|计算|等于|combien|calcule|"
    r"cuánt|calcula|wie ?viel|berechne|сколько|вычисл|найд|몇|얼마|구하|いくつ|求め|quant[ioae]",
    re.IGNORECASE,
)
"""A question whose answer is one number."""


def asks_for_a_number(question: str) -> bool:
    """Whether a question wants a number, as far as its words tell. Time is linear in the question."""
    return ASKS_FOR_A_NUMBER.search(question) is not None
