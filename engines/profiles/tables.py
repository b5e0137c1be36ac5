"""The families of models that Ponder knows."""

from __future__ import annotations

from ponder.engines.profiles.profile import Profile

_STEP_BY_STEP = (
    "Think step by step before you answer: write down your reasoning first, one step per paragraph. When it is "
    'complete, write a line that begins with "Final answer:" and behind it the answer alone, complete and '
    "self-contained: the reader sees nothing that stands before it."
)

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="demo",
            closing="\n</think>\n",
            closed="<think>\n</think>\n",
            temperature=1.0,
            top_p=1.0,
            step="\n",
            typical_chain=(60, 110),
            reads_thoughts="always",
        ),
        Profile(name="think"),
        Profile(name="deepseek-r1", typical_chain=(4000, 16000), tools="deepseek"),
        Profile(name="qwen3", top_k=20, typical_chain=(3500, 14000), tools="hermes"),
        Profile(name="qwq", top_k=40, typical_chain=(4000, 14000), tools="hermes"),
        Profile(
            name="plain",
            start="",
            end="Final answer:",
            opening="",
            closing="\n\nFinal answer:",
            closed="",
            instruction=_STEP_BY_STEP,
            temperature=0.7,
            typical_chain=(400, 900),
            tools="hermes",
        ),
    )
}
