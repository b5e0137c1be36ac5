"""The dashboard of operations: whether the server and its engines are up, how long requests take and wait, what they
are turned away for, how budgets are used, how verifiers judge, and how ledger, event loop and process are."""

from collections.abc import Sequence

from deploy.grafana.boards import Board, Panel, Query, Section

QUANTILES = ((0.5, "half"), (0.95, "19 of 20"), (0.99, "99 of 100"))


def rate(name: str, by: str) -> Query:
    """How often a second, by a label."""
    return Query(f"sum by ({by}) (rate({name}[$__rate_interval]))", f"{{{{{by}}}}}")


def quantiles(name: str) -> Sequence[Query]:
    return [
        Query(f"histogram_quantile({q}, sum by (le) (rate({name}_bucket{{}}[$__rate_interval])))", legend)
        for q, legend in QUANTILES
    ]


def quantile(q: float, name: str, by: str) -> Query:
    return Query(
        f"histogram_quantile({q}, sum by (le, {by}) (rate({name}_bucket{{}}[$__rate_interval])))", f"{{{{{by}}}}}"
    )


def mean(name: str, by: str) -> Query:
    return Query(
        f"sum by ({by}) (rate({name}_sum{{}}[$__rate_interval]))"
        f" / (sum by ({by}) (rate({name}_count{{}}[$__rate_interval])) > 0)",
        f"{{{{{by}}}}}",
    )


STATE = Section(
    "State",
    [
        Panel(
            "Servers that answer",
            "Servers whose metrics Prometheus can read.",
            "short",
            "number",
            [Query("sum(up{})")],
            width=4,
        ),
        Panel(
            "Models that answer",
            "1 where a model answers when it is asked, by model and role (generator, or verifier: its reward model).",
            "short",
            "table",
            [Query("min by (model, role) (ponder_engine_up{})", "answers")],
            width=8,
            by=["model", "role"],
        ),
        Panel(
            "Running",
            "What runs on each server: its version, and that of Python.",
            "short",
            "table",
            [Query("count by (instance, version, python) (ponder_build_info{})", "servers")],
            width=12,
            by=["instance", "version", "python"],
        ),
    ],
)

REQUESTS = Section(
    "Requests",
    [
        Panel(
            "Requests, by outcome",
            "Requests that ended, a second. failed is our fault; disconnected and refused are the caller's.",
            "reqps",
            "stack",
            [rate("ponder_requests_total{}", "outcome")],
            width=8,
        ),
        Panel(
            "Turned away, by reason",
            "Requests that were turned away before any work, a second.",
            "reqps",
            "stack",
            [rate("ponder_admission_rejections_total{}", "reason")],
            width=8,
        ),
        Panel(
            "Hung up, by phase",
            "Callers who went before their answer was complete, a second, and what their request was doing.",
            "reqps",
            "stack",
            [rate("ponder_client_disconnects_total{}", "phase")],
            width=8,
        ),
        Panel(
            "In flight and waiting",
            "Requests being worked on or waiting, those of them in the queue, and calls that wait for a slot.",
            "short",
            "lines",
            [
                Query("sum(ponder_inflight_requests{})", "in flight"),
                Query("sum(ponder_queue_depth{})", "in the queue"),
                Query("sum(ponder_calls_waiting{})", "calls waiting for a model"),
            ],
            width=8,
        ),
        Panel(
            "Wait in the queue",
            "Time a request waited before it was worked on.",
            "s",
            "lines",
            quantiles("ponder_queue_wait_seconds"),
            width=8,
        ),
        Panel(
            "Wait for a slot",
            "Time a call waited for a slot of its model, where it had to.",
            "s",
            "lines",
            [quantile(0.95, "ponder_slot_wait_seconds", "role")],
            width=8,
        ),
    ],
)

LATENCY = Section(
    "How long it takes",
    [
        Panel(
            "Request, by strategy",
            "Time from a request to its last byte: nineteen of twenty take less.",
            "s",
            "lines",
            [quantile(0.95, "ponder_request_duration_seconds", "strategy")],
            width=8,
        ),
        Panel(
            "First visible text, by strategy",
            "Time from a request to the first text of its answer: nineteen of twenty take less.",
            "s",
            "lines",
            [quantile(0.95, "ponder_time_to_first_visible_token_seconds", "strategy")],
            width=8,
        ),
        Panel(
            "Without the model, by strategy",
            "Mean time of a request in which no call to a model was outstanding: what the strategy itself takes.",
            "s",
            "lines",
            [mean("ponder_orchestration_overhead_seconds", "strategy")],
            width=8,
        ),
    ],
)

TOKENS = Section(
    "Tokens and budgets",
    [
        Panel(
            "Tokens of the models",
            "Tokens that the models read (prompt, cached) and wrote (thinking, visible), a second: not what is billed.",
            "short",
            "stack",
            [Query("sum by (role, kind) (rate(ponder_engine_tokens_total{}[$__rate_interval]))", "{{role}}: {{kind}}")],
            width=8,
        ),
        Panel(
            "From the prefix cache",
            "The part of all prompt tokens that the model had in its prefix cache.",
            "percentunit",
            "lines",
            [
                Query(
                    'sum by (model) (rate(ponder_engine_tokens_total{role="generator", kind="cached"}'
                    "[$__rate_interval]))"
                    ' / (sum by (model) (rate(ponder_engine_tokens_total{role="generator", kind=~"prompt|cached"}'
                    "[$__rate_interval])) > 0)",
                    "{{model}}",
                )
            ],
            width=8,
            most=1,
        ),
        Panel(
            "Hidden tokens of a request",
            "Hidden tokens of a request, all its answers together.",
            "short",
            "lines",
            quantiles("ponder_thinking_tokens_per_request"),
            width=8,
        ),
        Panel(
            "Used of the budget, by strategy",
            "Mean part of the thinking budget that a request used. Above 1 is a defect.",
            "percentunit",
            "lines",
            [mean("ponder_thinking_budget_used_ratio", "strategy")],
            width=8,
        ),
        Panel(
            "Chains",
            "Chains that were asked for, a second: finished, or not paid for or stopped early.",
            "short",
            "stack",
            [rate("ponder_samples_total{}", "result")],
            width=8,
        ),
        Panel(
            "In circles",
            "Chains that were ended because the model repeated itself, a second, in a thought or an answer.",
            "short",
            "lines",
            [rate("ponder_repetitions_total{}", "where")],
            width=8,
        ),
    ],
)

JUDGES = Section(
    "How answers are judged",
    [
        Panel(
            "Answers, by verdict",
            "What is known of answers: verified or refuted by a verifier that decides, agreed or disputed in a vote, "
            "scored by a verifier that estimates, or unjudged. A second.",
            "short",
            "stack",
            [rate("ponder_verified_total{}", "verdict")],
            width=8,
        ),
        Panel(
            "Agreement, by strategy",
            "Mean part of the vote behind the answer.",
            "percentunit",
            "lines",
            [mean("ponder_vote_agreement_ratio", "strategy")],
            width=8,
            most=1,
        ),
        Panel(
            "Confidence, by strategy",
            "Mean probability that the answer would win the vote in full.",
            "percentunit",
            "lines",
            [mean("ponder_vote_confidence_ratio", "strategy")],
            width=8,
            most=1,
        ),
        Panel(
            "Score, by verifier",
            "Mean score of the answer that was given.",
            "percentunit",
            "lines",
            [mean("ponder_verifier_score", "verifier")],
            width=12,
            most=1,
        ),
        Panel(
            "Judged by the fallback",
            "Answers that another verifier judged because this one failed, a second.",
            "short",
            "lines",
            [rate("ponder_verifier_degraded_total{}", "verifier")],
            width=12,
        ),
    ],
)

MACHINE = Section(
    "Ledger, engines and process",
    [
        Panel(
            "Commits of the ledger",
            "How long commits take. Every request waits for two.",
            "s",
            "lines",
            quantiles("ponder_ledger_commit_seconds"),
            width=8,
        ),
        Panel(
            "Open rows that do not run",
            "Rows whose settlement waits: above 0 for long, the database is away.",
            "short",
            "lines",
            [Query("sum(ponder_ledger_unsettled_requests{}) - sum(ponder_inflight_requests{})", "waiting")],
            width=8,
        ),
        Panel(
            "Engines that were started again",
            "Over the time shown, by model.",
            "short",
            "bars",
            [Query("sum by (model) (increase(ponder_engine_restarts_total{}[$__range]))", "{{model}}")],
            width=4,
        ),
        Panel(
            "Chains that went on",
            "Chains that went on after their engine had gone away in the middle, over the time shown, by model.",
            "short",
            "bars",
            [Query("sum by (model) (increase(ponder_resumed_samples_total{}[$__range]))", "{{model}}")],
            width=4,
        ),
        Panel(
            "Delay of the event loop",
            "The worst delay of late. Above a tenth of a second something holds it.",
            "s",
            "lines",
            [Query("max by (instance) (ponder_event_loop_lag_seconds{})", "{{instance}}")],
            width=8,
        ),
        Panel(
            "Memory",
            "Memory of the server's own process; engines may be others.",
            "bytes",
            "lines",
            [Query("sum by (instance) (process_resident_memory_bytes{})", "{{instance}}")],
            width=8,
        ),
        Panel(
            "Processor",
            "Cores that the server's own process keeps busy.",
            "short",
            "lines",
            [Query("sum by (instance) (rate(process_cpu_seconds_total{}[$__rate_interval]))", "{{instance}}")],
            width=8,
        ),
    ],
)

OPERATIONS = Board(
    "operations",
    "Ponder: operations",
    "Whether the server is well, how long requests take and wait, and how budgets are used.",
    [STATE, REQUESTS, LATENCY, TOKENS, JUDGES, MACHINE],
    since="now-3h",
    links={"Cost": "cost"},
)
