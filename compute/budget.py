"""What one answer of a request may spend and what it has spent: the budget, the reservations from it, and their sum.

The bound holds by construction. Every call to a model is preceded by a `Reservation` whose limits become the call's
token limits, and the open reservations never exceed what is left. Nothing is ever aborted in order to keep the bound.

What is hidden? Everything the model generates for a request except the visible tokens of the answer that is given.
While several candidates are in the race, nobody knows which answer that will be, so the answers of all are paid from
the thinking budget. Only a chain that is bound to be the answer (it is streamed, or chosen and being completed, or
there is no other) writes its visible part on the answer's own allowance. Hence for every choice

    reasoning = generated - visible(chosen) <= thinking
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from ponder.compute.clock import now
from ponder.compute.cost import CostLimit, payable
from ponder.compute.errors import Exhausted, Unaffordable
from ponder.compute.identity import CallIdentity
from ponder.compute.quota import Drawing
from ponder.compute.text import Ending, Hidden, Written
from ponder.compute.token_chain import TokenHash
from ponder.compute.usage import Usage


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one answer of a request, in tokens of the language model.

    `thinking` bounds all that is hidden, `answer` the visible answer; `total`, where given, both together
    (`max_completion_tokens`; the plan keeps part of it back for the answer, so that there always is one). `cost`, where
    given, bounds what all of it costs.
    """

    thinking: int
    answer: int
    total: int | None = None
    cost: CostLimit | None = None

    def split(self, n: int) -> list[Budget]:
        """The budgets of `n` answers. The thinking is divided, as evenly as whole tokens allow; each answer has the
        limits `answer`, `total` and `cost` for itself."""
        whole, rest = divmod(self.thinking, n)
        return [Budget(whole + (i < rest), self.answer, self.total, self.cost) for i in range(n)]


class Reservation:
    """Tokens set aside for one call, and what the call has used of them. Each is a row of the request's trace."""

    def __init__(
        self,
        spending: Spending,
        number: int,
        purpose: str,
        thinking: int,
        answer: int,
        parent: int | None,
        bound: bool,
        child: int,
    ) -> None:
        self._spending = spending
        self.number = number
        self.purpose = purpose
        self.parent = parent
        self.child = child
        """Which child of its parent it is, counted from 0 in the order they were begun."""
        self.thinking = thinking
        """Hidden tokens at most."""
        self.answer = answer
        """Visible tokens at most."""
        self.hidden = 0
        self.visible = 0
        self.prompt = 0
        self.cached = 0
        self.first_cached = 0
        """Of them, those of the first call that read anything."""
        self.calls = 0
        self.started = now()
        self.seconds: float | None = None
        """How long it was open; None while it is."""
        self.ending: Ending | None = None
        self.circled: Literal["thought", "answer"] | None = None
        """Where the model went in circles, so that the engine ended it."""
        self.forced = False
        """The engine closed its thought before the model did: the tokens for it were used up, or others wait."""
        self.score: float | None = None
        self.answer_group: int | None = None
        """The number of its answer in a vote: equal answers have equal numbers, counted from 0 as they appear."""
        self.bound = bound
        """Its visible tokens are the answer's for certain: the allowance pays for them."""
        self.most = answer if bound else thinking + answer
        """Visible tokens at most. A chain that may lose has one limit for both: its answer may use what its thought
        left."""
        self.forfeited = 0
        """Tokens it left that no other call may have."""
        self.resumed = 0
        """How often it went on after its model had gone away."""
        self.wasted = 0
        """Tokens the model made that went with it: nobody is billed for them."""
        self.unseen = False
        """The end of a call to the model was not seen: it may have made tokens that are counted nowhere."""
        self.grown: Callable[[int], None] | None = None
        """Told how many tokens were made, as they come; None where nobody looks at the half-written chain."""
        self.every: int | None = None
        """Tokens between two such tellings."""
        self.made: TokenHash | None = None
        """The ids of all that the model made, those in vain included; None where nobody wants a receipt."""

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, *, forfeit: bool = False) -> None:
        """Gives back what was not used; with `forfeit` it is lost. Idempotent."""
        if self.seconds is None:
            if forfeit:
                self.forfeited = self.outstanding
            self.seconds = now() - self.started
            if self.made is not None:
                self.made.flush()
            self._spending.closed(self)

    def read(self, prompt: int, cached: int) -> None:
        """A call to the model has read `prompt` tokens, `cached` of them from the prefix cache."""
        if not self.prompt:
            self.first_cached = cached
        self.prompt += prompt
        self.cached += cached
        self.calls += 1

    def spend(self, hidden: int = 0, visible: int = 0) -> None:
        """Counts tokens the model has made, as they come. Never refused: they are made already."""
        self.hidden += hidden
        self.visible += visible
        spending = self._spending
        spending.unseen += hidden + visible
        if spending.unseen >= spending.most_unseen:
            spending.look()

    def waste(self, hidden: int = 0, visible: int = 0) -> None:
        """Of the tokens counted, these are made again: they are no part of the bill, and may be spent once more."""
        self.hidden -= hidden
        self.visible -= visible
        self.wasted += hidden + visible

    @property
    def identity(self) -> CallIdentity:
        """The name of its calls to the model."""
        return self._spending.identity(self.number, self.purpose)

    @property
    def tokens(self) -> int:
        return self.hidden + self.visible

    @property
    def outstanding(self) -> int:
        """Tokens the call may still make; 0 once it is closed."""
        return 0 if self.seconds is not None else max(0, self.thinking + self.answer - self.tokens)

    @property
    def may_hide(self) -> int:
        """Of these, what the thinking budget pays for: all, where its answer may lose."""
        if self.seconds is None and self.bound:
            return max(0, self.thinking - self.hidden)
        return self.outstanding

    @property
    def overdrawn(self) -> bool:
        """More was made than was reserved: a defect of an engine."""
        return self.tokens > self.thinking + self.answer or self.visible > self.most


@dataclass(frozen=True, slots=True)
class Judgement:
    """One call of a verifier."""

    verifier: str
    candidates: int
    started: float
    seconds: float
    tokens: int
    """A reward model has read meanwhile."""


class RewardRead:
    """Chains that a reward model was asked about together, and what it has read for that."""

    def __init__(self, spending: Spending, chains: Sequence[int]) -> None:
        self._spending = spending
        self.chains = tuple(chains)
        """Their numbers."""
        self.tokens = self.cached = 0

    def read(self, tokens: int, cached: int) -> None:
        """The reward model has read this much."""
        self.tokens += tokens
        self.cached += cached
        self._spending.read_for_verifier(tokens, cached)


class Spending:
    """All that one answer of a request has reserved and spent, in memory; the tree of its calls."""

    def __init__(self, budget: Budget, request: str = "", answer: int = 0) -> None:
        """`request` is its id, left out: one of its own; `answer` which of its answers this is. Both are for the
        identity of calls."""
        self.budget = budget
        self._request, self._answer = request or f"local_{secrets.token_hex(12)}", answer
        self._children: dict[int | None, int] = {}
        """How many calls continue a chain, by its number; None: those that begin one."""
        self.reservations: list[Reservation] = []
        self.judgements: list[Judgement] = []
        self.reward_reads: list[RewardRead] = []
        """In the order they were asked for."""
        self.verifier = 0
        self.verifier_cached = 0
        self._salt: bytes | None = None
        self._keeps_ids = False
        self.program_seconds = 0.0
        """Processor time of the programs that a verifier ran."""
        self.chosen: int | None = None
        self.texts: dict[int, Written] = {}
        """What each call has written, only where `Plan.keep_text` says so."""
        self.likelihoods: dict[int, Hidden[tuple[float, ...]]] = {}
        """`Candidate.likelihood` of each call, only where texts are kept and it was recorded."""
        self.idle_seconds = 0.0
        """Wall time with no call outstanding: what the orchestration itself costs. The loop's clock may count in
        milliseconds, which is too coarse for it."""
        self._final: tuple[tuple[int, ...], Usage] | None = None
        self._open: list[Reservation] = []
        self._bound: list[Reservation] = []
        self.kept = 0
        """Tokens of the thinking budget that are kept for what comes later: not free until then."""
        self._settled = self._settled_visible = 0
        self._forfeited = 0
        self._to_read = 0
        """Tokens set aside for calls to a reward model."""
        self.unread = False
        """The cost limit did not pay for one of them."""
        self._dear = False
        """The cost limit allowed a call fewer tokens than the thinking budget."""
        self.on_close: Callable[[], None] | None = None
        """Called whenever a reservation was closed."""
        self.on_usage: Callable[[Usage], None] | None = None
        """Told what each call has used when it ends; all that it made counts as hidden."""
        self.quota: Drawing | None = None
        """What calls draw from beside the budget; None: the budget alone bounds them."""
        self.out_of_quota = False
        """There was not enough left for a call: nothing more is begun."""
        self.unseen = 0
        """Tokens made since somebody who follows the spending has looked, and the number at which it looks again."""
        self.most_unseen = sys.maxsize
        self._every = 0
        self._on_look: Callable[[], None] | None = None
        self._most_open = 1
        self._since = perf_counter()

    def follow(self, every: int, look: Callable[[], None]) -> None:
        """`look` is called whenever `every` tokens were made for each chain that is being written, and when more chains
        are than ever before (the first does not count). It must be quick."""
        self._every, self.most_unseen, self._on_look = every, every, look

    def hash_ids(self, salt: bytes, *, keep: bool = False) -> None:
        """From now on the token ids of each call are hashed with this salt; with `keep` they are kept, too."""
        self._salt, self._keeps_ids = salt, keep

    def look(self) -> None:
        """Whoever follows the spending looks now."""
        self.unseen = 0
        if self._on_look is not None:
            self._on_look()

    # -- what is left -------------------------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Tokens of the thinking budget neither spent nor reserved, as far as the cost limit pays for them. What is
        reserved for the visible part of a chain that is not bound to be the answer counts too: it may lose."""
        return max(0, self._afforded(surely_hidden=False) - self.kept)

    @property
    def free_thought(self) -> int:
        """The same of tokens that are hidden for certain, which may be cheaper than those of an answer."""
        return max(0, self._afforded(surely_hidden=True) - self.kept)

    def _afforded(self, *, surely_hidden: bool) -> int:
        """Those that are free and that the cost limit pays for, with what is kept."""
        return min(self._free, self._payable(surely_hidden=surely_hidden))

    @property
    def _free(self) -> int:
        if self.out_of_quota:
            return 0
        used = self.generated + self._forfeited - sum(h.visible for h in self._bound)
        return max(0, self.budget.thinking - used - sum(h.may_hide for h in self._open))

    @property
    def contested(self) -> int:
        """What would be free if one more chain entered the race, so that no answer were certain any more; negative
        where the budget cannot pay for the answers so far."""
        if self.out_of_quota:
            return 0
        outstanding = sum(h.outstanding for h in self._open)
        left = self.budget.thinking - self.generated - self._forfeited - outstanding
        if (cost := self.budget.cost) is not None:
            left = min(left, payable(self._money(contested=True), cost.dearest))
        return left - self.kept

    @property
    def allowance(self) -> int:
        """Visible tokens the answer may still have, if nothing more is thought."""
        left = self.budget.answer - sum(h.visible for h in self._bound)
        if self.budget.total is not None:
            left = min(left, self.budget.total - self.generated)
        return max(0, left)

    @property
    def total_left(self) -> int | None:
        """Tokens left under `max_completion_tokens`; None where there is no such limit."""
        return None if self.budget.total is None else max(0, self.budget.total - self.generated)

    @property
    def generated(self) -> int:
        """Tokens the language model made so far."""
        return self._settled + sum(h.tokens for h in self._open)

    # -- money --------------------------------------------------------------------------------------------------------

    def _payable(self, *, surely_hidden: bool) -> int:
        """Tokens that the cost limit still pays for."""
        cost = self.budget.cost
        if cost is None:
            return sys.maxsize
        return max(0, payable(self._money(), cost.hidden if surely_hidden else cost.dearest))

    def _money(self, *, contested: bool = False, reading: bool = False) -> int:
        """What is left of the cost limit when all that is reserved is spent; with `contested` if no answer were certain
        any more. For chains, or with `reading` for a reward model."""
        cost = self.budget.cost
        if cost is None:
            return 0
        visible = self._settled_visible + sum(h.visible for h in self._open)
        used = (self.generated - visible) * cost.hidden + self._forfeited * cost.dearest
        used += (visible if contested else visible - sum(h.visible for h in self._bound)) * cost.dearest
        for reservation in self._open:
            certain = reservation.bound and not contested
            tokens = reservation.may_hide if certain else reservation.outstanding
            used += tokens * (cost.hidden if certain else cost.dearest)
        read = (self.verifier + self._to_read) * cost.verifier
        left = cost.amount - used - (read if reading else max(read, cost.judging))
        return min(0, left) if self.unread else left

    @property
    def cost(self) -> int:
        """What all of it costs so far, the prompt left out, in the unit of `CostLimit`; 0 where there is no limit."""
        cost, spent = self.budget.cost, self.spent
        if cost is None:
            return 0
        return spent.hidden * cost.hidden + spent.visible * cost.visible + spent.verifier * cost.verifier

    @property
    def dear(self) -> bool:
        """The cost limit, and not the thinking budget, has kept calls short or from being made."""
        cost = self.budget.cost
        if cost is None:
            return False
        return cost.thought_short or self._dear or self.unread or self._afforded(surely_hidden=False) < self._free

    @asynccontextmanager
    async def reading(self, tokens: int) -> AsyncGenerator[None]:
        """Sets tokens aside for one call to a reward model, which is made within the block. Raises `Unaffordable`
        where the cost limit or the quota does not pay for them. Nothing more is begun then: what is left is less than
        such a call costs, and how many were made before it depends on which was quicker."""
        cost = self.budget.cost
        if cost is not None:
            left = payable(self._money(reading=True), cost.verifier)
            if tokens > left:
                self.unread = True
                raise Unaffordable(f"a judgement takes {tokens} tokens and the cost limit pays for {max(0, left)}")
        self._to_read += tokens
        held = False
        try:
            if self.quota is not None:
                held = await self.quota.hold(tokens)
                if not held:
                    self.out_of_quota = True
                    raise Unaffordable(f"a judgement takes {tokens} tokens and the quota does not pay for them")
            yield
        finally:
            self._to_read -= tokens
            if held and self.quota is not None:
                self.quota.release(tokens)

    # -- reserving ----------------------------------------------------------------------------------------------------

    def reserve(
        self, purpose: str, *, thinking: int, answer: int, parent: int | None = None, bound: bool = False
    ) -> Reservation:
        """Sets tokens aside for one call. At the end of its `with` block, what was not used is given back.

        `purpose` names the call in the trace; `parent` is the number of the chain it continues. `bound`: the visible
        part is the answer for certain, and the allowance pays for it; else the thinking budget does. Raises `Exhausted`
        when there is not that much.
        """
        taken, free = (thinking, self.free_thought) if bound else (thinking + answer, self.free)
        if taken > free:
            raise Exhausted(f"{purpose} asks for {taken} tokens and {free} of {self.budget.thinking} are left")
        if bound and answer > self.allowance:
            raise Exhausted(f"{purpose} asks for {answer} visible tokens and {self.allowance} are left")
        if self.budget.cost is not None:
            self._dear = self._dear or self._afforded(surely_hidden=bound) < self._free
        if not self._open:
            self.idle_seconds += perf_counter() - self._since
        child = self._children.get(parent, 0)
        self._children[parent] = child + 1
        reservation = Reservation(self, len(self.reservations), purpose, thinking, answer, parent, bound, child)
        if self._salt is not None:
            reservation.made = TokenHash(self._salt, keep=self._keeps_ids)
        self.reservations.append(reservation)
        self._open.append(reservation)
        if bound:
            self._bound.append(reservation)
        if self._every:
            self.most_unseen = self._every * len(self._open)
            if len(self._open) > self._most_open:
                self._most_open = len(self._open)
                self.look()
        return reservation

    def closed(self, reservation: Reservation) -> None:
        """Called by a reservation when it is closed."""
        self._open.remove(reservation)
        self._settled += reservation.tokens
        self._settled_visible += reservation.visible
        self._forfeited += reservation.forfeited
        self._since = perf_counter()
        if self._every:
            self.most_unseen = self._every * max(1, len(self._open))
            if self.unseen >= self.most_unseen:
                self.look()
        if self.on_usage is not None:
            self.on_usage(
                Usage(
                    hidden=reservation.tokens,
                    prompt_read=reservation.prompt,
                    cached=reservation.cached,
                    chains=1,
                    unseen_calls=int(reservation.unseen),
                )
            )
        if self.on_close is not None:
            self.on_close()

    def grow(self, reservation: Reservation, answer: int) -> None:
        """Sets `answer` more visible tokens aside for a call that is open and may lose. Raises `Exhausted`."""
        if answer > self.free:
            raise Exhausted(f"{reservation.purpose} asks for {answer} tokens more and {self.free} are left")
        reservation.answer += answer
        reservation.most += answer

    def unbind(self) -> None:
        """A second chain enters the race: answers so far may lose, so they move from the allowance to the budget.
        Raises `Exhausted` where the budget cannot pay for them."""
        if self._bound and self.contested < 0:
            raise Exhausted(f"the answer so far does not fit into a budget of {self.budget.thinking} tokens")
        if self.quota is not None and self._bound:
            # An answer that is being written counts with all that it may still get.
            tokens = sum(
                h.visible + (0 if h.seconds is not None else max(0, h.answer - h.visible)) for h in self._bound
            )
            if tokens and not self.quota.take(tokens):
                self.out_of_quota = True
                raise Exhausted(f"the quota has no {tokens} tokens for the answer so far")
        self._release()

    def _release(self) -> None:
        for reservation in self._bound:
            reservation.bound = False
        self._bound.clear()

    def bind(self, number: int) -> None:
        """Chain `number` is going to be the answer: its visible tokens, and those it inherited, move to the
        allowance."""
        self._release()
        self._bound = [self.reservations[i] for i in self.line(number)]
        for reservation in self._bound:
            reservation.bound = True

    def choose(self, number: int) -> None:
        """Chain `number` is the answer."""
        self.bind(number)
        self.chosen = number

    def affords(self, number: int) -> bool:
        """With chain `number` as the answer, what is hidden is within the budget."""
        hidden = self.generated - sum(self.reservations[i].visible for i in self.line(number))
        cost = self.budget.cost
        if cost is not None and hidden * cost.hidden + self.verifier * cost.verifier > cost.amount:
            return False
        return hidden <= self.budget.thinking

    def reads(self, chains: Sequence[int]) -> RewardRead:
        """A reward model is asked about these chains; what it reads is told to what is returned."""
        self.reward_reads.append(one := RewardRead(self, chains))
        return one

    def read_for_verifier(self, tokens: int, cached: int) -> None:
        """A reward model has read this much."""
        self.verifier += tokens
        self.verifier_cached += cached
        if self.quota is not None:
            self.quota.read(tokens)
        if self.on_usage is not None:
            self.on_usage(Usage(verifier=tokens, verifier_cached=cached))

    def line(self, number: int | None) -> set[int]:
        """Numbers of the chain and of those it was continued from; empty for None."""
        line: set[int] = set()
        while number is not None and number not in line:
            line.add(number)
            number = self.reservations[number].parent
        return line

    def identity(self, number: int | None, purpose: str) -> CallIdentity:
        """A call about chain `number`; about no chain in particular for None, or for none of this run."""
        path: list[int] = []
        while number is not None and 0 <= number < len(self.reservations):
            reservation = self.reservations[number]
            path.append(reservation.child)
            number = reservation.parent
        return CallIdentity(self._request, (self._answer, *reversed(path)), purpose)

    # -- the bill -----------------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Calls are still open."""
        return bool(self._open)

    @property
    def open(self) -> int:
        """How many calls are open."""
        return len(self._open)

    @property
    def held(self) -> int:
        """Tokens reserved by calls still open and not made or read yet. 0 when a request is over."""
        return sum(h.outstanding for h in self._open) + self._to_read

    @property
    def overdrawn(self) -> bool:
        """A call made more than was reserved for it, or all together more than the budget. True is a defect."""
        cost = self.budget.cost
        if cost is not None and self.cost > cost.amount + self.budget.answer * cost.visible:
            return True
        return any(h.overdrawn for h in self.reservations) or self.spent.hidden > self.budget.thinking

    @property
    def spent(self) -> Usage:
        """The bill as it stands. Before an answer is chosen, everything but what was streamed is hidden."""
        if self._open or self.chosen is None:
            return self._added_up()
        # It is asked for by the outcome, the account, the metrics and the trace, when nothing changes any more.
        state = self.chosen, len(self.reservations), self._settled, self.verifier, self.verifier_cached
        if self._final is None or self._final[0] != state:
            self._final = state, self._added_up()
        return self._final[1]

    def _added_up(self) -> Usage:
        line = {h.number for h in self._bound} if self.chosen is None else self.line(self.chosen)
        visible = kept = prompt = cached = wasted = unseen = 0
        for reservation in self.reservations:
            prompt += reservation.prompt
            cached += reservation.cached
            wasted += reservation.wasted
            unseen += reservation.unseen
            if reservation.number in line:
                visible += reservation.visible
                kept += reservation.tokens
        generated = self.generated
        return Usage(
            hidden=generated - visible,
            visible=visible,
            discarded=generated - kept,
            prompt_read=prompt,
            cached=cached,
            verifier=self.verifier,
            verifier_cached=self.verifier_cached,
            chains=len(self.reservations),
            wasted=wasted,
            unseen_calls=unseen,
        )
