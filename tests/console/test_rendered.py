"""Text of a model on a page: Markdown and formulas are shown, and nothing in it acts, whatever it says."""

from __future__ import annotations

import re
import time

import pytest

from ponder.console import units
from ponder.console.rendered import FORMULA, LONGEST, html, mathml

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "[press](javascript:alert(1))",
    "[press](JaVaScRiPt:alert(1))",
    "[press](data:text/html;base64,PHNjcmlwdD4=)",
    "<javascript:alert(1)>",
    "![x](javascript:alert(1))",
    '[a](http://x "onmouseover=alert(1)")',
    "$\\text{<script>alert(1)</script>}$",
    "$\\text{<img src=x onerror=alert(1)>}$",
    "$\\href{javascript:alert(1)}{x}$",
    "$\\text{&lt;script&gt;alert(1)&lt;/script&gt;}$",
    "\\[ \\style{background:url(http://evil)}{x} \\]",
    '```"><script>alert(1)</script>\nx\n```',
    "`<svg/onload=alert(1)>`",
    "| <iframe src=//evil> |\n|---|\n| <b onclick=alert(1)> |",
    "&lt;script&gt;",
)
HARMLESS = re.compile(r"</?(p|a|b|em|strong|s|h[1-6]|ul|ol|li|pre|code|blockquote|table|thead|tbody|tr|th|td|hr|br)\b")
FORMULAS = re.compile(r"</?(math|m[a-z]+)\b")


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_a_text_acts(text: str) -> None:
    made = html(f"before {text} after\n\n{text}")
    for tag in re.findall(r"<[^>]*>", made):
        assert HARMLESS.match(tag) or FORMULAS.match(tag), tag
        assert not re.search(r"\son\w+\s*=|style\s*=|src\s*=", tag), tag
        for address in re.findall(r'href="([^"]*)"', tag):
            assert address.startswith(("http://", "https://", "mailto:", "#"))


def test_markdown_and_formulas_are_shown() -> None:
    made = html(r"**So** $\frac{1}{2}$, \(x^2\) and" "\n\n" r"\[ \boxed{42} \]" "\n\n| a |\n|---|\n| $1 |")
    assert "<strong>So</strong>" in made
    assert made.count("<math") == 3
    assert '<menclose notation="box">' in made
    assert "<td>$1</td>" in made


def test_a_box_is_a_formula_without_marks_around_it() -> None:
    """Models that were trained on sums write their answers so."""
    assert html(r"The answer is \boxed{\frac{1}{2}}.").count("<mfrac>") == 1
    assert "<math" not in html(r"\boxed{never closed")


@pytest.mark.parametrize("text", ["It costs $5 and $7.", "a $ b", "no formula \\( here", "$$", "100$"])
def test_a_dollar_alone_is_money(text: str) -> None:
    assert "<math" not in html(text)


def test_an_image_is_a_link_and_nothing_is_fetched() -> None:
    assert html("![a cat](http://elsewhere/cat.png)") == '<p><a href="http://elsewhere/cat.png">a cat</a></p>\n'


def test_what_is_no_formula_is_its_source() -> None:
    assert mathml("\\frac{", False) == "<code>\\frac{</code>"
    assert mathml("x" * (FORMULA + 1), False).startswith("<code>")


@pytest.mark.parametrize("unit", ["![", "*a_", "$a", "[a](", "\\boxed{", "``` "])
def test_reading_takes_time_that_grows_with_the_text(unit: str) -> None:
    def took(length: int) -> float:
        begun = time.process_time()
        html((unit * length)[:length])
        return time.process_time() - begun

    took(100)
    assert took(LONGEST) < 40 * max(took(LONGEST // 8), 0.01)


def test_what_is_too_long_to_read_is_shown_as_it_is() -> None:
    assert html("*" * (LONGEST + 1)) == f"<pre>{'*' * (LONGEST + 1)}</pre>"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (units.usd(0), "0 USD"),
        (units.usd(0.0001306), "0.000131 USD"),
        (units.usd(12.4), "12.40 USD"),
        (units.usd(None), "–"),
        (units.tokens(1), "1 token"),
        (units.tokens(12345), "12\u2009345 tokens"),
        (units.seconds(0.0841), "84 ms"),
        (units.seconds(1.256), "1.26 s"),
        (units.seconds(200), "3 min 20 s"),
        (units.seconds(7500), "2 h 5 min"),
        (units.percent(0.425), "42.5 %"),
        (units.rate(35.21), "35.2 tokens/s"),
        (units.rate(12604.2), "12\u2009604 tokens/s"),
        (units.bytes_(1010), "1\u2009010 B"),
        (units.bytes_(1536 * 1024), "1.5 MiB"),
    ],
)
def test_a_number_has_its_unit(shown: str, expected: str) -> None:
    assert shown == expected
