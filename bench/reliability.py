"""Whether what was said to be likely came true as often."""

from __future__ import annotations

from collections.abc import Sequence

Said = tuple[float, bool]
"""A probability that was given, and whether it came true."""


def reliability(said: Sequence[Said], bins: int = 10) -> list[tuple[int, float, float]]:
    """Of each bin of equal width, those without an entry left out: how many entries it has, the mean of what was said,
    and the part of them that came true."""
    parted: dict[int, list[Said]] = {}
    for chance, true in said:
        parted.setdefault(min(bins - 1, int(chance * bins)), []).append((chance, true))
    found: list[tuple[int, float, float]] = []
    for _, one in sorted(parted.items()):
        chances, true = (sum(column) / len(one) for column in zip(*one, strict=True))
        found.append((len(one), chances, true))
    return found


def calibration_error(said: Sequence[Said], bins: int = 10) -> float:
    """The expected calibration error (Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian
    Binning"): the mean distance of the two over bins; 0 where nothing was said."""
    return sum(n * abs(chance - true) for n, chance, true in reliability(said, bins)) / max(1, len(said))
