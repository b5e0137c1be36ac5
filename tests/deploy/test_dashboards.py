"""Both dashboards against a real Prometheus that has watched a server under load: every panel shows something, and
those of costs show what is in the ledger."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.boards import FOLDER, Board, written
from deploy.grafana.cost import COST
from deploy.grafana.operations import OPERATIONS
from tests.deploy.prometheus import DEPLOYED, as_grafana_asks, promtool
from tests.deploy.watched import LOOK, Watched, watched
from tests.metering.databases import PostgreSQL

BOARDS = (COST, OPERATIONS)
RIGHT = {"majority_vote", "best_of_n"}
"""Strategies of the load with answers that somebody judges."""


@pytest.fixture(scope="module")
def server(a_postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("watched"), a_postgresql) as found:
        yield found


def committed(board: Board) -> dict[str, Any]:
    return json.loads((FOLDER / f"{board.name}.json").read_text())


def panels(board: Board) -> list[dict[str, Any]]:
    return [panel for panel in committed(board)["panels"] if panel["type"] != "row"]


def named(board: Board) -> str:
    return board.name


def asked(server: Watched, target: Mapping[str, Any]) -> list[tuple[Mapping[str, str], float]]:
    """What a query gives: of one that is asked for each moment, the last number of each series."""
    query = as_grafana_asks(target["expr"], seconds=3600, rate=4 * LOOK)
    if target.get("instant"):
        return server.prometheus.instant(query, server.end)
    lines = server.prometheus.range(query, server.begin, server.end, LOOK)
    return [(labels, line[-1]) for labels, line in lines]


@pytest.mark.parametrize("board", BOARDS, ids=named)
def test_what_is_committed_is_what_the_generator_writes(board: Board) -> None:
    assert (FOLDER / f"{board.name}.json").read_text() == written(board), "make dashboards"


@pytest.mark.parametrize("board", BOARDS, ids=named)
def test_a_dashboard_is_what_grafanas_schema_knows(board: Board) -> None:
    """Read into the types that are made of the schema and written again, nothing is lost."""
    read = Dashboard.from_json(committed(board))
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == committed(board)


@pytest.mark.parametrize("board", BOARDS, ids=named)
def test_every_panel_says_what_it_shows_of_the_data_source_that_is_chosen(board: Board) -> None:
    variables = {variable["name"]: variable for variable in committed(board)["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    titles = [panel["title"] for panel in panels(board)]
    assert len(set(titles)) == len(titles)
    for panel in panels(board):
        where = panel["title"]
        assert len(panel["description"]) > 20, where
        assert panel["fieldConfig"]["defaults"]["unit"], where
        for target in panel["targets"]:
            assert panel["datasource"] == target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, where
            expr = target["expr"]
            assert set(re.findall(r"\[([^]]+)\]", expr)) <= {"$__rate_interval", "$__range"}, where
            assert "$__range" not in expr or target["instant"], where
            assert all('job=~"$job"' in selector for selector in re.findall(r"[a-z_:]+\{[^}]*\}", expr)), where
            assert re.search(r"[a-z_:]+\{", expr), where


@pytest.mark.parametrize("board", BOARDS, ids=named)
def test_panels_lie_side_by_side(board: Board) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in committed(board)["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not taken & cells, panel["title"]
        taken |= cells


@pytest.mark.parametrize("board", BOARDS, ids=named)
def test_every_query_of_every_panel_finds_something(server: Watched, board: Board) -> None:
    empty = [
        f"{panel['title']}: {target['expr']}"
        for panel in panels(board)
        for target in panel["targets"]
        if not asked(server, target)
    ]
    assert not empty, "\n".join(empty)


def test_the_metrics_of_a_server_under_load_are_as_prometheus_wants_them(server: Watched) -> None:
    assert promtool("check", "metrics", given=server.metrics) == ""


def test_the_rules_are_right() -> None:
    promtool("check", "rules", *sorted((DEPLOYED / "rules").iterdir()))
    promtool("test", "rules", "rules_test.yml", "hours_test.yml", cwd=DEPLOYED)


def test_every_metric_that_is_asked_for_is_one_that_there_is(server: Watched) -> None:
    there = set(re.findall(rb"^# TYPE (\S+)", server.metrics, re.MULTILINE))
    wanted = "".join(path.read_text() for path in [*(DEPLOYED / "rules").iterdir(), *FOLDER.iterdir()])
    for name in set(re.findall(r"\bponder_[a-z_]+\b(?=[{\[ )]|$)", wanted)) - GROUPS:
        assert {name.encode(), re.sub("_(bucket|sum|count)$", "", name).encode()} & there, name


GROUPS = {"ponder_gained", "ponder_hours", "ponder_up", "ponder_requests", "ponder_meter", "ponder_cost"}


def cost(server: Watched, **among: str) -> float:
    """USD in the ledger."""
    chosen = [row for row in server.rows.values() if all(row[name] == value for name, value in among.items())]
    return sum(row["cost_nano_usd"] for row in chosen) / 1e9


def shown(server: Watched, title: str) -> dict[str, float]:
    """What a panel of the dashboard of costs shows, by the label that tells its lines apart."""
    panel = next(panel for panel in panels(COST) if panel["title"] == title)
    return {next(iter(labels.values()), ""): value for labels, value in asked(server, panel["targets"][0])}


def near(expected: Any) -> Any:
    """But for the rounding of sums of floats."""
    return pytest.approx(expected, rel=1e-9)


def test_what_it_costs_is_what_the_ledger_says(server: Watched) -> None:
    assert cost(server) > 0
    assert shown(server, "Today") == {"": near(cost(server))}
    billed = [row for row in server.rows.values() if row["price_version"]]
    assert shown(server, "A request, today") == {"": near(cost(server) / len(billed))}


def test_who_and_what_costs_most_is_what_the_ledger_says(server: Watched) -> None:
    assert shown(server, "By key") == near(dict(server.told))
    for title, column in (("By model", "model"), ("By strategy", "strategy")):
        values = {row[column] for row in server.rows.values()}
        assert shown(server, title) == near({value: cost(server, **{column: value}) for value in values})


def test_what_was_thinking_and_what_discarded_is_what_the_ledger_says(server: Watched) -> None:
    def of(column: str, price: str) -> float:
        return sum(row[column] * row[price] for row in server.rows.values()) / 1e15

    thinking, discarded = of("thinking", "price_thinking"), of("discarded", "price_thinking")
    assert thinking > discarded > 0
    # A kind is rounded to a nano-USD, in each row.
    rounding = 1e-9 * len(server.rows) / cost(server)
    assert shown(server, "Of it thinking") == {"": pytest.approx(thinking / cost(server), abs=rounding)}
    assert shown(server, "Of it discarded") == {"": pytest.approx(discarded / cost(server), abs=rounding)}
    kinds = shown(server, "By kind of token")
    assert kinds.keys() == {"prompt", "reasoning", "visible", "verifier"}
    assert sum(kinds.values()) == near(cost(server))
    assert kinds["reasoning"] == pytest.approx(thinking, rel=rounding)


def test_what_a_right_answer_costs_is_what_the_ledger_says(server: Watched) -> None:
    verdicts = re.findall(rb'^ponder_verified_total\{.*strategy="(\w+)",verdict="(\w+)"\} (\S+)', server.metrics, re.M)
    right: dict[str, float] = {}
    for strategy, verdict, count in verdicts:
        if verdict in (b"verified", b"agreed"):
            right[strategy.decode()] = right.get(strategy.decode(), 0) + float(count)
    assert right.keys() == RIGHT
    costs = {strategy: cost(server, strategy=strategy) / count for strategy, count in right.items()}
    assert shown(server, "A right answer, by strategy") == near(costs)
    answers = {
        strategy: sum(float(count) for found, _, count in verdicts if found.decode() == strategy)
        for strategy in {found.decode() for found, _, _ in verdicts}
    }
    assert shown(server, "Any answer, by strategy") == near(
        {strategy: cost(server, strategy=strategy) / count for strategy, count in answers.items()}
    )
    assert shown(server, "Right, by strategy") == near({one: right[one] / answers[one] for one in right})


def test_nothing_drifts(server: Watched) -> None:
    for title in ("Drift", "Made and not billed", "Open rows", "Reserved tokens", "Budgets overdrawn"):
        assert shown(server, title) == {"": 0}
    wasted = re.findall(rb"^ponder_wasted_tokens_total(?:\{[^}]*\})? (\S+)", server.metrics, re.MULTILINE)
    assert sum(map(float, wasted)) == sum(row["wasted"] for row in server.rows.values())


def test_the_server_gives_no_key_away_in_its_metrics(server: Watched) -> None:
    assert b"pk-" not in server.metrics
    assert b"sha256" not in server.metrics
