"""How long the chains of one model are, as seen lately: what shares of a budget are worth giving.

A chain that was closed by force, cut or stopped has no known length, only one it is longer than: a right-censored
observation. Left out, or taken as whole, such chains make all look short, budgets are split ever finer and the estimate
sinks with use. So quantiles are read off the survival function, estimated as Susarla and Van Ryzin do (1976,
"Nonparametric Bayesian Estimation of Survival Curves from Incomplete Observations"): Kaplan-Meier's product, and a
parametric curve of the weight of a few observations, which says what lies beyond the longest chain seen. The curve is
log-normal, fitted to the same observations and the model's typical chain by Newton's method, in the parameters in which
the likelihood is concave (Olsen 1978, "Note on the Uniqueness of the Maximum Likelihood Estimator for the Tobit
Model").
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import erfc, exp, log, pi, sqrt
from statistics import NormalDist

NEVER_STARVE = 1.5
"""A chain's share of a budget in p90 chain lengths, at least: with less, one chain is given all."""

UNSEEN = 8
"""As many times too short may a typical chain be that was configured and never seen."""

WINDOW = 4096
"""Observations looked back on, as long as the habits of the model do not change."""

WEIGHT = 16.0
"""Observations that the fitted curve counts for."""

PRIOR_LEVEL, PRIOR_SPREAD = 1.0, 8.0
"""Observations that the typical chain counts for in fitting the curve: for how long chains are, few, as that may be
eight times wrong; for how much they differ, more."""

BATCHES = 16
"""Parts of the window that are compared with one another, and in which it is read anew."""

CHANGED = 2.2
"""Habits have changed when the largest cumulative sum of batches, in standard deviations, is above this. By chance it
is so once in 8,000 windows (the supremum of a Brownian bridge)."""

NORMAL = NormalDist()
Z90 = NORMAL.inv_cdf(0.9)


class Lengths:
    """p50 and p90 of the tokens of one whole chain, and p90 of its visible part, learned from the chains it is given.

    `p50` and `p90` are the model's typical chain, before any was seen; `answer` is p90 of the visible part where it is
    known. Where it is not, anything up to a typical chain is thought possible.
    """

    def __init__(self, p50: int, p90: int, answer: int | None = None, *, window: int = WINDOW) -> None:
        self._configured = p50, p90, answer, window
        answer = answer or p50
        self._chains = _Survival(p50, p90, window)
        self._answers = _Survival(answer / 4, answer, window)
        self._request: _Request | None = None

    def request(self) -> Lengths:
        """The same, as one request knows it: what it tells of its chains, however many, counts as one observation.
        Easy questions have short chains, so that a budget feeds more of them; each counted by itself, they would make
        chains look short."""
        view = Lengths.__new__(Lengths)
        view._configured, view._chains, view._answers = self._configured, self._chains, self._answers
        view._request = _Request()
        return view

    def prior(self) -> Lengths:
        """A fresh one that knows what this one was made with, and nothing of what it has seen."""
        p50, p90, answer, window = self._configured
        return Lengths(p50, p90, answer, window=window)

    def saw(self, chain: int, answer: int) -> None:
        """A chain of so many tokens came to its own end, `answer` of them visible."""
        self._chains.add(chain, True, self._request)
        self._answers.add(answer, True, self._request)

    def saw_answer(self, answer: int) -> None:
        """A visible part of so many tokens came to its own end, behind a thought that did not."""
        self._answers.add(answer, True, self._request)

    def censored(self, chain: int, answer: int | None = None) -> None:
        """A chain was closed, cut or stopped after so many tokens; with `answer`, after so many visible ones, in the
        middle of them."""
        self._chains.add(chain, False, self._request)
        if answer is not None:
            self._answers.add(answer, False, self._request)

    @property
    def p50(self) -> int:
        return self._chains.quantiles()[0]

    @property
    def p90(self) -> int:
        return self._chains.quantiles()[1]

    @property
    def answer(self) -> int:
        """p90 of the visible part."""
        return self._answers.quantiles()[1]

    def chains(self, n: int, free: int) -> int:
        """How many chains of `n` wanted a budget of `free` tokens should be divided into now; 0 when not one."""
        return 0 if free < 1 else max(1, min(n, int(free / (NEVER_STARVE * self.p90))))

    def at_first(self, n: int, free: int) -> int:
        """The same for chains that would begin side by side. As long as none was seen, only as many as could be fed if
        the configured typical chain were far too short: mostly one, which shows how long they are."""
        return self.chains(n, free if self._chains.seen else free // UNSEEN or min(1, free))


class _Request:
    """Whose observations count as one, and how many they are, of chains and of answers."""

    __slots__ = ("times",)

    def __init__(self) -> None:
        self.times: dict[_Survival, int] = {}


@dataclass(frozen=True, slots=True)
class _Seen:
    """One observation: the logarithm of a length, and whether it is only one that the chain is above."""

    log: float
    cut: bool
    request: _Request | None


class _Survival:
    """The distribution of a length in tokens, some of whose observations are censored."""

    def __init__(self, p50: float, p90: float, window: int) -> None:
        sigma = max(0.05, log(max(p90, p50 + 1) / p50) / Z90)
        self._typical = log(p50), sigma
        self._curve = 1 / sigma, log(p50) / sigma
        self._window: deque[_Seen] = deque(maxlen=window)
        self._unread = 0
        self._quantiles: tuple[int, int] | None = None

    def add(self, length: int, whole: bool, request: _Request | None) -> None:
        """A length, or with `whole` false one that it is above."""
        if length > 0:
            self._window.append(_Seen(log(length), not whole, request))
            self._unread += 1
            if request:
                request.times[self] = request.times.get(self, 0) + 1

    @property
    def seen(self) -> bool:
        """There was an observation, whole or cut."""
        return bool(self._window)

    def quantiles(self) -> tuple[int, int]:
        """p50 and p90, at least 1. Read anew when a sixteenth of the window is new."""
        if self._quantiles is None or self._unread * BATCHES > len(self._window):
            ordered = self._read()
            while (old := self._outdated(ordered)) > 0:
                for _ in range(old):
                    self._window.popleft()
                ordered = self._read()
            self._unread = 0
            self._curve = self._fit(ordered)
            p50, p90 = self._invert(ordered, (0.5, 0.1))
            self._quantiles = max(1, round(exp(p50))), max(1, round(exp(p90)))
        return self._quantiles

    def _read(self) -> list[tuple[float, bool, int, float]]:
        """(logarithm, cut, when it came, weight), shortest first; of equals those that are whole."""
        return sorted(
            (seen.log, seen.cut, i, 1 / seen.request.times[self] if seen.request else 1.0)
            for i, seen in enumerate(self._window)
        )

    def _outdated(self, ordered: list[tuple[float, bool, int, float]]) -> int:
        """How many of the oldest observations are of other habits than those since: at the maximum of the cumulative
        sum of log-rank residuals, where that is too high for chance. The chance is taken from how batches differ from
        the next, for the chains of one question are alike and come together."""
        n = len(ordered)
        size = n // BATCHES
        if size < BATCHES:
            return 0
        batches = [0.0] * BATCHES
        hazard, left = 0.0, sum(weight for *_, weight in ordered)
        for _, cut, i, weight in ordered:
            if not cut:
                hazard += weight / left
            left = max(left - weight, 1e-9)
            batches[min(BATCHES - 1, i // size)] += weight * ((not cut) - hazard)
        spread = sum((a - b) ** 2 for a, b in pairwise(batches)) / (2 * (BATCHES - 1))
        sums = [abs(total) for total in accumulate(batches[:-1])]
        most = max(sums)
        return (sums.index(most) + 1) * size if most > CHANGED * sqrt(BATCHES * spread) else 0

    def _fit(self, ordered: list[tuple[float, bool, int, float]]) -> tuple[float, float]:
        """(1/sigma, mu/sigma) of the log-normal curve at the maximum of the posterior."""
        mean, sigma = self._typical
        n, freedom = PRIOR_LEVEL, PRIOR_SPREAD
        first = PRIOR_LEVEL * mean
        second = PRIOR_LEVEL * mean * mean + PRIOR_SPREAD * sigma * sigma
        limits: dict[float, float] = {}
        for x, cut, _, weight in ordered:
            if cut:
                # Rounded to a sixteenth of an octave, which is near enough for a curve.
                near = round(x * 23) / 23
                limits[near] = limits.get(near, 0.0) + weight
            else:
                n += weight
                freedom += weight
                first += weight * x
                second += weight * x * x

        def height(theta: float, gamma: float) -> float:
            whole = freedom * log(theta) - (theta * theta * second - 2 * theta * gamma * first + n * gamma * gamma) / 2
            return whole + sum(times * _log_survival(theta * x - gamma) for x, times in limits.items())

        theta, gamma = self._curve
        here = height(theta, gamma)
        for _ in range(20):
            by_theta = freedom / theta - theta * second + gamma * first
            by_gamma = theta * first - n * gamma
            tt, tg, gg = freedom / theta**2 + second, -first, n
            for x, times in limits.items():
                z = theta * x - gamma
                rate = _hazard(z)
                bend = times * rate * (rate - z)
                by_theta -= times * rate * x
                by_gamma += times * rate
                tt += bend * x * x
                tg -= bend * x
                gg += bend
            determinant = tt * gg - tg * tg
            step_theta = (gg * by_theta - tg * by_gamma) / determinant
            step_gamma = (tt * by_gamma - tg * by_theta) / determinant
            gain = step_theta * by_theta + step_gamma * by_gamma
            if gain < 1e-3:
                break
            stride = 1.0
            while stride > 1e-3:
                there = theta + stride * step_theta, gamma + stride * step_gamma
                if there[0] > 0 and (reached := height(*there)) > here:
                    theta, gamma = there
                    here = reached
                    break
                stride /= 2
            else:
                break
        return theta, gamma

    def _invert(self, ordered: list[tuple[float, bool, int, float]], survivals: tuple[float, ...]) -> list[float]:
        """The logarithms of the lengths that these parts of all chains are above, in falling order."""
        theta, gamma = self._curve
        found: list[float] = []
        left = sum(weight for *_, weight in ordered)
        scale = 1 / (WEIGHT + left)
        for x, cut, _, weight in ordered:
            beyond = WEIGHT * _survival(theta * x - gamma)
            # Between two observations only the curve falls.
            while len(found) < len(survivals) and scale * (beyond + left) <= survivals[len(found)]:
                found.append(self._along((survivals[len(found)] / scale - left) / WEIGHT))
            left = max(0.0, left - weight)
            if cut:
                scale *= (beyond + left + weight) / (beyond + left)
            else:
                while len(found) < len(survivals) and scale * (beyond + left) <= survivals[len(found)]:
                    found.append(x)
            if len(found) == len(survivals):
                return found
        return found + [self._along(survival / scale / WEIGHT) for survival in survivals[len(found) :]]

    def _along(self, survival: float) -> float:
        """Where the curve has come down to this."""
        theta, gamma = self._curve
        return (gamma - NORMAL.inv_cdf(min(max(survival, 1e-12), 1 - 1e-12))) / theta


def _survival(z: float) -> float:
    return max(erfc(z / sqrt(2)) / 2, 1e-300)


def _hazard(z: float) -> float:
    """Density over survival of the standard normal distribution; beyond 25, where the survival vanishes, its
    asymptote."""
    return z + 1 / z if z > 25 else exp(-z * z / 2) / sqrt(2 * pi) / _survival(z)


def _log_survival(z: float) -> float:
    return -z * z / 2 - log(z * sqrt(2 * pi)) if z > 25 else log(_survival(z))
