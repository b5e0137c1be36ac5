"""Families of process reward models as data: how each wants a chain laid out, and how its verdicts are read."""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal

from pydantic import BaseModel, ConfigDict


class RewardProfile(BaseModel):
    """One family of process reward models, as data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "custom"
    layout: Literal["chat", "turns", "text"] = "chat"
    """chat: the steps, a tag behind each, as one turn of the assistant. turns: each step a turn of the user, a label
    the turn that follows. text: question and steps in a row."""
    template: str = "plain"
    """The profile (`engines/profiles.py`) by which the chat template is rendered; one that thinks opens its thought."""
    system: str | None = None
    """The system message the family was trained with; None keeps the conversation's own."""
    tag: str = "<extra_0>"
    """What stands behind each step; the verdict is read at its last token, or at the step's own where it is empty."""
    tail: str = ""
    """What ends a step before its tag."""
    numbered: bool = False
    """Steps are headed "Step 1: " and so on."""
    piecewise: bool = False
    """Steps and tags are tokenised one by one, as some families are trained: no token spans two of them."""
    step: str = "\n\n"
    """What ends a step in the chains that are judged."""
    judges: Literal["thought", "all"] = "all"
    """The answer is judged too, as further steps."""
    seam: str = ""
    """What of ours stands between thought and answer; where there is one, the tail ends steps of the thought alone."""
    verdict: Literal["softmax", "sigmoid", "labels"] = "softmax"
    """softmax: column 1 of two. sigmoid: of one number. labels: the model writes one of two tokens."""
    labels: tuple[str, str] = ("+", "-")
    aggregation: Literal["last", "min", "product", "mean"] = "min"


REWARD_PROFILES: dict[str, RewardProfile] = {
    profile.name: profile
    for profile in (
        RewardProfile(
            name="demo-prm",
            template="demo",
            tag="",
            tail="\n",
            piecewise=True,
            step="\n",
            seam="</think>\n",
            aggregation="min",
        ),
        RewardProfile(
            name="qwen2.5-math-prm",
            system="Please reason step by step, and put your final answer within \\boxed{}.",
            aggregation="product",
        ),
        RewardProfile(name="skywork", layout="text", tag="\n", piecewise=True, verdict="sigmoid", aggregation="mean"),
        RewardProfile(name="rlhflow", layout="turns", tag="", verdict="labels", aggregation="product"),
        RewardProfile(
            name="math-shepherd",
            layout="text",
            tag=" \u043a\u0438",
            numbered=True,
            verdict="labels",
            aggregation="min",
        ),
    )
}


def find_reward_profile(path: str) -> RewardProfile:
    """The profile that fits a reward model, by its name."""
    name = PurePath(path).name.lower()
    if "demo-prm" in name:
        return REWARD_PROFILES["demo-prm"]
    if "shepherd" in name:
        return REWARD_PROFILES["math-shepherd"]
    if "skywork" in name:
        return REWARD_PROFILES["skywork"]
    if "rlhflow" in path.lower() or "deepseek-data" in name or "mistral-data" in name:
        return REWARD_PROFILES["rlhflow"]
    return REWARD_PROFILES["qwen2.5-math-prm"]
