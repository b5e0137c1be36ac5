"""Rollouts as training data: for supervised fine-tuning, for preferences, for reinforcement learning. `docs/export.md`
says what each row looks like.

Conversations are those of TRL, prompts for GRPO also those of verl. Advantages are those of GRPO (Shao and others 2024,
DeepSeekMath): how much better a rollout's reward is than the mean of its group, in standard deviations of the group.
"""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ponder.evaluation.exporting.rollouts import Asked, Rollout

Row = dict[str, Any]
Reward = Literal["right", "score", "agreement"]
Side = Literal["train", "test"]

SMALLEST = 1e-4
"""Added to the standard deviation, as TRL does, so that groups of equal rewards have advantages of 0."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rollouts are wanted."""

    right: bool = False
    """Right ones alone."""
    min_score: float | None = None
    min_agreement: float | None = None
    chosen: bool = False
    """Those alone that a request was answered with."""
    most: int | None = None
    """Rows of one question."""

    def reason(self, one: Rollout) -> str | None:
        """Why one is not wanted; None: it is."""
        if self.right and not one.right:
            return (
                "chains that are wrong" if one.right is False else "chains of which nobody knows whether they are right"
            )
        if self.min_score is not None and (one.score is None or one.score < self.min_score):
            return "chains below --min-score"
        if self.min_agreement is not None and (one.agreement is None or one.agreement < self.min_agreement):
            return "chains below --min-agreement"
        if self.chosen and not one.chosen:
            return "chains that were not chosen"
        return None

    def of(self, asked: Asked, left_out: Counter[str]) -> list[Rollout]:
        """Those of a question that are wanted, each text once."""
        wanted: dict[str, Rollout] = {}
        for one in asked.rollouts:
            reason = self.reason(one) or ("chains that are there already" if one.text in wanted else None)
            if reason is None:
                wanted[one.text] = one
            else:
                left_out[reason] += 1
        return list(wanted.values())


def value(one: Rollout, reward: Reward) -> float | None:
    """The reward of a rollout; None where it has none."""
    if reward == "right":
        return None if one.right is None else float(one.right)
    return one.score if reward == "score" else one.agreement


def _best(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Right before wrong, then by score, then by agreement; equals in the order they came."""
    return sorted(rollouts, key=lambda one: (-(one.right or 0), -(one.score or 0.0), -(one.agreement or 0.0)))


def _said(text: str) -> list[Row]:
    return [{"role": "assistant", "content": text}]


def sft(asked: Asked, wanted: Filter, left_out: Counter[str]) -> Iterator[Row]:
    """`prompt` and `completion`: one row for each rollout, the best first."""
    found = _best(wanted.of(asked, left_out))
    for one in found[: wanted.most]:
        yield {"prompt": list(asked.messages), "completion": _said(one.text)}
    left_out["chains beyond --max-per-question"] += len(found) - len(found[: wanted.most])


def preferences(asked: Asked, wanted: Filter, reward: Reward, margin: float, left_out: Counter[str]) -> Iterator[Row]:
    """`prompt`, `chosen` and `rejected`: the best with the worst, the next best with the next worst, as long as the
    rewards lie more than `margin` apart. No rollout is in two pairs."""
    found = [(got, one) for one in _best(wanted.of(asked, left_out)) if (got := value(one, reward)) is not None]
    found.sort(key=lambda pair: -pair[0])
    pairs = 0
    for (high, good), (low, bad) in zip(found[: len(found) // 2], reversed(found), strict=False):
        if high - low <= margin or pairs == wanted.most:
            break
        pairs += 1
        yield {"prompt": list(asked.messages), "chosen": _said(good.text), "rejected": _said(bad.text)}
    left_out["chains without another to be held against"] += len(asked.rollouts) > 0 and pairs == 0


def groups(asked: Asked, wanted: Filter, reward: Reward, left_out: Counter[str]) -> Iterator[Row]:
    """All rollouts of a question with rewards and advantages; repeated ones count as often as they were drawn. Nothing
    where fewer than two have a reward."""
    found: list[tuple[float, Rollout]] = []
    for one in asked.rollouts:
        reason, got = wanted.reason(one), value(one, reward)
        if reason is None and got is not None:
            found.append((got, one))
        else:
            left_out[reason or f"chains without the reward {reward!r}"] += 1
    if len(found) < 2:
        left_out["groups of fewer than two"] += 1
        return
    rewards = [got for got, _ in found]
    mean, spread = statistics.fmean(rewards), statistics.stdev(rewards)
    yield {
        "prompt": list(asked.messages),
        "answer": None if asked.known is None else asked.known.answer,
        "reward": reward,
        "mean": mean,
        "std": spread,
        "rollouts": [
            {
                "completion": _said(one.text),
                "reward": got,
                "advantage": (got - mean) / (spread + SMALLEST),
                "right": one.right,
                "score": one.score,
                "agreement": one.agreement,
                "chosen": one.chosen,
                "tokens": one.tokens,
            }
            for got, one in found
        ],
    }


def trl_prompt(asked: Asked, left_out: Counter[str]) -> Iterator[Row]:
    """`prompt` and, for the reward function, `answer`."""
    if asked.known is None:
        left_out["questions whose answer is not known"] += 1
    else:
        yield {"prompt": list(asked.messages), "answer": asked.known.answer}


def verl_prompt(
    asked: Asked, number: int, side: Side, data_source: str, ability: str, left_out: Counter[str]
) -> Iterator[Row]:
    """A row as verl's data sets have them. `data_source` chooses verl's reward function."""
    if asked.known is None:
        left_out["questions whose answer is not known"] += 1
        return
    yield {
        "data_source": data_source,
        "prompt": list(asked.messages),
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": asked.known.answer},
        "extra_info": {"split": side, "index": number, "id": asked.known.id},
    }


def side(asked: Asked, share: float) -> Side:
    """Where a question belongs of which so large a share is for tests: by its words, so that it stays there in every
    export, with all its rollouts."""
    drawn = int.from_bytes(hashlib.sha256(asked.last.strip().encode("utf-8", "replace")).digest()[:8]) / 2**64
    return "test" if drawn < share else "train"
