"""Monte Carlo tree search (Kocsis and Szepesvári 2006, UCT; over steps of a thought: Hao et al. 2023, RAP).

A node is a half-written chain, its children are what it may go on with by one step. Each simulation walks down to the
leaf with the best upper confidence bound, branches it, writes the most promising branch to its end, and tells all nodes
above how good that was. What was written to its end votes, each chain with its score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log, sqrt
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

from ponder.compute.run import Run
from ponder.compute.text import Candidate, Score


@checked(frozen=True, config=ConfigDict(extra="forbid"))
class Mcts:
    """Searches the tree of half-written chains; those written to their ends vote with their scores."""

    judged: ClassVar[bool] = True

    n: Annotated[int, Field(ge=1, le=64, description="Simulations, each with a chain written to its end")] = 8
    width: Annotated[int, Field(ge=2, le=16, description="Branches of a leaf")] = 3
    exploration: Annotated[float, Field(ge=0, le=10, description="Weight of what was seldom tried (c of UCT)")] = 0.7
    step_tokens: Annotated[int, Field(ge=4, le=4096, description="Tokens of a step at most")] = 64

    async def __call__(self, run: Run) -> Candidate:
        simulations = run.chains(self.n)
        if simulations == 1:
            return await run.stream()
        part = run.free // simulations
        root = Node(run.blank)
        finished: list[Scored] = []
        for _ in range(simulations):
            if root.over:
                break
            # A simulation has its part and no more, or the first could use all.
            with run.keeping(max(0, run.free - part)):
                finished += await self.simulated(run, root)
            if finished:
                await elect(run, finished)
        if finished:
            return await elect(run, finished)
        furthest = root.best.candidate
        return (await run.extend([furthest]) or [furthest])[0]

    async def simulated(self, run: Run, root: Node) -> list[Scored]:
        """One simulation: the chains that it came to the end of."""
        path = [root]
        while path[-1].children:
            path.append(path[-1].most_promising(self.exploration))
        leaf = path[-1]
        branches = await run.extend([leaf.candidate] * self.width, until=self.step_tokens)
        if not branches:
            return []
        scores = await run.score(branches)
        different = {one.same_place: (one, score) for one, score in reversed(list(zip(branches, scores, strict=True)))}
        leaf.children = [Node(one, score.value) for one, score in reversed(list(different.values()))]
        chosen = max(leaf.children, key=lambda child: child.value)
        run.offer(chosen.candidate)
        ended = [(child.candidate, Score(child.value)) for child in leaf.children if child.candidate.over]
        reward = chosen.value
        if not chosen.candidate.over and (whole := await run.extend([chosen.candidate])):
            (score,) = await run.score(whole)
            reward = score.value
            ended.append((whole[0], score))
        for node in (*path, chosen):
            node.visits += 1
            node.total += reward
        return ended


Scored = tuple[Candidate, Score]


@dataclass(eq=False)
class Node:
    """A half-written chain in the tree."""

    candidate: Candidate
    prior: float = 0.0
    """What the verifier thinks of it as it stands: counts as one visit."""
    children: list[Node] = field(default_factory=list["Node"])
    visits: int = 0
    total: float = 0.0
    """Rewards of the simulations that came through it, added up."""

    @property
    def value(self) -> float:
        """Its mean reward."""
        return (self.prior + self.total) / (1 + self.visits)

    @property
    def over(self) -> bool:
        """There is nothing below it that has not been tried."""
        return self.candidate.over or (bool(self.children) and all(child.over for child in self.children))

    def most_promising(self, exploration: float) -> Node:
        """The child with the best upper confidence bound (UCB1), of those below which there is something to try."""

        def bound(child: Node) -> float:
            return child.value + exploration * sqrt(log(1 + self.visits) / (1 + child.visits))

        return max((child for child in self.children if not child.over), key=bound)

    @property
    def best(self) -> Node:
        """The half-written chain that has come furthest along the best children."""
        node = self
        while node.children:
            node = max(node.children, key=lambda child: child.value)
        return node


async def elect(run: Run, finished: Sequence[Scored]) -> Candidate:
    """The leader of the vote of all that were written to their ends, weighted by their scores."""
    return (await run.vote([one for one, _ in finished], [score for _, score in finished])).leader
