"""The dashboard of costs: what it costs now and today, who and what costs most, how much of it was thinking and how
much discarded, what a right answer costs, who is near a limit, and whether anything drifts.

Sums over a time are made of `ponder:...:gained`, which Prometheus records (deploy/prometheus/rules/gained.yml): they
are what the ledger has. `increase` would guess at the ends of the time, and miss what a series begins with.
"""

from deploy.grafana.boards import Board, Panel, Query, Section

GAINED = "sum_over_time(ponder:cost_usd:gained{}[$__range])"
RIGHT = 'sum by (strategy) (sum_over_time(ponder:verified:gained{verdict=~"verified|agreed"}[$__range]))'
ANSWERS = "sum by (strategy) (sum_over_time(ponder:verified:gained{}[$__range]))"
MADE = (
    'sum(ponder_engine_tokens_total{role="generator", kind=~"thinking|visible"})'
    " - (sum(ponder_wasted_tokens_total{}) or vector(0))"
    ' - sum(ponder_billed_tokens_total{kind=~"reasoning|visible"})'
)


def most(label: str) -> Query:
    return Query(f"topk(10, sum by ({label}) ({GAINED}))", f"{{{{{label}}}}}")


def share(part: str, of: str = f"sum({GAINED})") -> str:
    return f"{part} / ({of} > 0)"


AT_A_GLANCE = Section(
    "At a glance",
    [
        Panel(
            "An hour costs now",
            "What an hour costs at the present rate. Requests count when they end.",
            "currencyUSD",
            "number",
            [Query("sum(rate(ponder_cost_usd_total{}[$__rate_interval])) * 3600")],
            width=4,
        ),
        Panel(
            "Today",
            "What was billed since midnight.",
            "currencyUSD",
            "number",
            [Query(f"sum({GAINED})")],
            width=4,
            today=True,
        ),
        Panel(
            "A request, today",
            "The mean cost of a request with a price since midnight.",
            "currencyUSD",
            "number",
            [Query(share(f"sum({GAINED})", "sum(sum_over_time(ponder:billed_requests:gained{}[$__range]))"))],
            width=4,
            today=True,
        ),
        Panel(
            "Of it thinking",
            "The part of today's cost that was hidden tokens, those of chains that were discarded included.",
            "percentunit",
            "number",
            [Query(share('sum(sum_over_time(ponder:cost_usd:gained{kind="reasoning"}[$__range]))'))],
            width=4,
            today=True,
        ),
        Panel(
            "Of it discarded",
            "The part of today's cost that was tokens of chains that are no part of an answer: what a vote or a search "
            "costs beside its winner.",
            "percentunit",
            "number",
            [Query(share("(sum(sum_over_time(ponder:discarded_cost_usd:gained{}[$__range])) or vector(0))"))],
            width=4,
            today=True,
        ),
        Panel(
            "Drift",
            "Tokens that were made and are in no row of the ledger. 0 is right.",
            "short",
            "number",
            [Query("sum(ponder_meter_drift_tokens_total{})")],
            width=4,
            steps=[(1, "red")],
        ),
    ],
)

WHO = Section(
    "Who and what costs most",
    [
        Panel(
            "By key",
            "The ten keys that cost most over the time shown.",
            "currencyUSD",
            "bars",
            [most("key_owner")],
            width=8,
        ),
        Panel(
            "By model", "The ten models that cost most over the time shown.", "currencyUSD", "bars", [most("model")], 8
        ),
        Panel(
            "By strategy",
            "The ten strategies that cost most over the time shown.",
            "currencyUSD",
            "bars",
            [most("strategy")],
            width=8,
        ),
        Panel(
            "An hour, by key",
            "What an hour costs at the rate of each moment, by key.",
            "currencyUSD",
            "stack",
            [
                Query(
                    "sum by (key_owner) (rate(ponder_cost_usd_total{}[$__rate_interval])) * 3600",
                    "{{key_owner}}",
                )
            ],
            width=12,
        ),
        Panel(
            "A request",
            "Cost of a request: half of all cost less than the lower line, nineteen of twenty less than the upper.",
            "currencyUSD",
            "lines",
            [
                Query(
                    f"histogram_quantile({quantile}, "
                    "sum by (le) (rate(ponder_cost_per_request_usd_bucket{}[$__rate_interval])))",
                    legend,
                )
                for quantile, legend in ((0.5, "half"), (0.95, "19 of 20"))
            ],
            width=12,
        ),
    ],
)

WHAT_FOR = Section(
    "What it is spent on",
    [
        Panel(
            "By kind of token",
            "What was billed over the time shown, by kind: prompts, reasoning (all that is hidden), visible answers, "
            "and what reward models read.",
            "currencyUSD",
            "bars",
            [Query(f"sum by (kind) ({GAINED})", "{{kind}}")],
            width=8,
        ),
        Panel(
            "Thinking, by strategy",
            "The part of the cost of each strategy that is hidden tokens.",
            "percentunit",
            "lines",
            [
                Query(
                    'sum by (strategy) (rate(ponder_cost_usd_total{kind="reasoning"}[$__rate_interval]))'
                    " / (sum by (strategy) (rate(ponder_cost_usd_total{}[$__rate_interval])) > 0)",
                    "{{strategy}}",
                )
            ],
            width=8,
            most=1,
        ),
        Panel(
            "Discarded, by strategy",
            "The part of the generated tokens of each strategy that belongs to chains that were no part of the answer.",
            "percentunit",
            "lines",
            [
                Query(
                    "sum by (strategy) (rate(ponder_discarded_tokens_total{}[$__rate_interval]))"
                    ' / (sum by (strategy) (rate(ponder_billed_tokens_total{kind=~"reasoning|visible"}'
                    "[$__rate_interval])) > 0)",
                    "{{strategy}}",
                )
            ],
            width=8,
            most=1,
        ),
    ],
)

RIGHT_ANSWERS = Section(
    "What a right answer costs",
    [
        Panel(
            "A right answer, by strategy",
            "Right is an answer that a deciding verifier passed, or behind which more than half of several votes "
            "stand. A strategy whose answers nobody judges is not shown.",
            "currencyUSD",
            "bars",
            [Query(f"sum by (strategy) ({GAINED}) / ({RIGHT} > 0)", "{{strategy}}")],
            width=8,
        ),
        Panel(
            "Any answer, by strategy",
            "What an answer costs, right or not, over the time shown.",
            "currencyUSD",
            "bars",
            [Query(f"sum by (strategy) ({GAINED}) / ({ANSWERS} > 0)", "{{strategy}}")],
            width=8,
        ),
        Panel(
            "Right, by strategy",
            "The part of the answers of each strategy that are verified or agreed, over the time shown.",
            "percentunit",
            "bars",
            [Query(f"{RIGHT} / ({ANSWERS} > 0)", "{{strategy}}")],
            width=8,
            most=1,
        ),
    ],
)

LEFT = "min by (key_owner, window) (ponder_quota_remaining_tokens{})"
LIMIT = "max by (key_owner, window) (ponder_quota_limit_tokens{})"
LEFT_USD = "min by (key_owner) (ponder_quota_remaining_usd{})"
LIMIT_USD = "max by (key_owner) (ponder_quota_limit_usd{})"

LIMITS = Section(
    "Who is near a limit",
    [
        Panel(
            "Used of hidden tokens",
            "What each key has used of the hidden tokens it may have in a minute, a day or a month, what is reserved "
            "included: the ten nearest to their limits.",
            "percentunit",
            "bars",
            [Query(f"topk(10, 1 - {LEFT} / ({LIMIT} > 0))", "{{key_owner}}, {{window}}")],
            width=8,
            steps=[(0.8, "yellow"), (0.95, "red")],
            most=1,
        ),
        Panel(
            "Used of USD",
            "What each key has used of the USD it may cost in a month: the ten nearest to their limits.",
            "percentunit",
            "bars",
            [Query(f"topk(10, 1 - {LEFT_USD} / ({LIMIT_USD} > 0))", "{{key_owner}}")],
            width=8,
            steps=[(0.8, "yellow"), (0.95, "red")],
            most=1,
        ),
        Panel(
            "Left of hidden tokens",
            "Hidden tokens that a key has left of each of its limits, and the limit.",
            "short",
            "table",
            [Query(LEFT, "left"), Query(LIMIT, "limit")],
            width=8,
            by=["key_owner", "window"],
        ),
    ],
)

DRIFT = Section(
    "Whether anything drifts",
    [
        Panel(
            "Made and not billed",
            "Tokens the models generated, less those made in vain when an engine died, less those in settled rows. 0 "
            "is right; below 0 by what a server that died had made, which the next one has settled.",
            "short",
            "number",
            [Query(MADE)],
            width=6,
            steps=[(1, "red")],
        ),
        Panel(
            "Open rows",
            "Requests whose row is not settled: those that run, and those whose settlement waits for the database.",
            "short",
            "number",
            [Query("sum(ponder_ledger_unsettled_requests{})")],
            width=6,
        ),
        Panel(
            "Reserved tokens",
            "What requests with an open row may still make at most.",
            "short",
            "number",
            [Query("sum(ponder_reserved_tokens{})")],
            width=6,
        ),
        Panel(
            "Budgets overdrawn",
            "Requests that made more tokens than were reserved for them. 0 is right.",
            "short",
            "number",
            [Query("sum(ponder_budget_violations_total{})")],
            width=6,
            steps=[(1, "red")],
        ),
    ],
)

COST = Board(
    "cost",
    "Ponder: cost",
    "What requests cost, who and what for, and whether the count is right. Sums are those of the ledger.",
    [AT_A_GLANCE, WHO, WHAT_FOR, RIGHT_ANSWERS, LIMITS, DRIFT],
    links={"Operations": "operations"},
)
