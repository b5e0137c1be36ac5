"""A dashboard as a table of panels, and what Grafana's own library makes of it.

Queries are written without the job: one Prometheus may watch several installations, and a dashboard shows those that
are chosen in it. A panel that adds up over the time that is shown asks once, at its end (`$__range`); one that shows
how something went asks for each moment (`$__rate_interval`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).parent / "dashboards"
JOB = 'job=~"$job"'
DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

Shape = Literal["number", "bars", "lines", "stack", "table"]
Made = TypeVar("Made", stat.Panel, bargauge.Panel, timeseries.Panel, table.Panel)
Maker = Callable[["Panel"], stat.Panel | bargauge.Panel | timeseries.Panel | table.Panel]


@dataclass(frozen=True, slots=True)
class Query:
    expr: str
    """PromQL. Every selector has braces, be they empty."""
    legend: str = ""
    """What a line is called; of a column of a table, its name."""


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    description: str
    unit: str
    """As Grafana calls it: currencyUSD, percentunit, s, reqps, short, ..."""
    shape: Shape
    queries: Sequence[Query]
    width: int = 6
    """Of 24."""
    today: bool = False
    """It shows today, whatever time the dashboard shows."""
    steps: Sequence[tuple[float, str]] = ()
    """From which value on it has which color; below the first it is green."""
    most: float | None = None
    """The end of its scale."""
    by: Sequence[str] = ()
    """Of a table, the labels that are columns, in this order."""


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Board:
    name: str
    """Of its file, and in its address."""
    title: str
    description: str
    sections: Sequence[Section]
    since: str = "now-24h"
    links: Mapping[str, str] = field(default_factory=dict[str, str])
    """Other dashboards, by title."""


HEIGHTS: Mapping[Shape, int] = {"number": 4, "bars": 8, "lines": 8, "stack": 8, "table": 8}


def written(board: Board) -> str:
    """The dashboard as JSON, as it lies in the repository."""
    made = dashboard.Dashboard(board.title).uid(f"ponder-{board.name}").description(board.description)
    made.tags(["ponder"]).readonly().time(board.since, "now").refresh("30s").tooltip(DashboardCursorSync.CROSSHAIR)
    made.timezone("browser")
    made.with_variable(
        dashboard.DatasourceVariable("datasource")
        .label("Data source")
        .type("prometheus")
        .current(VariableOption(text="Prometheus", value="prometheus"))
    )
    made.with_variable(
        dashboard.QueryVariable("job")
        .label("Installation")
        .datasource(DATASOURCE)
        .query("label_values(ponder_build_info, job)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(text="All", value="$__all"))
    )
    for title, name in board.links.items():
        made.link(dashboard.DashboardLink(title).url(f"/d/ponder-{name}").keep_time(True))
    number = 0
    for section in board.sections:
        number += 1
        made.with_row(dashboard.Row(section.title).id(number))
        for panel in section.panels:
            number += 1
            made.with_panel(MAKERS[panel.shape](panel).id(number))
    return json.dumps(made.build(), cls=JSONEncoder, indent=1) + "\n"


def narrowed(expr: str) -> str:
    """A query about the installations that are chosen."""
    return expr.replace("{", f"{{{JOB}, ").replace(f"{JOB}, }}", f"{JOB}}}")


def _queries(panel: Panel, *, once: bool, as_table: bool = False) -> list[Builder[Dataquery]]:
    """`once`: asked for the end of the time that is shown."""
    found: list[Builder[Dataquery]] = []
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        asked = prometheus.Dataquery().expr(narrowed(query.expr)).ref_id(letter).datasource(DATASOURCE)
        asked.legend_format(query.legend or "__auto")
        asked = asked.instant() if once else asked.range()
        found.append(asked.format(PromQueryFormat.TABLE) if as_table else asked)
    return found


def _steps(panel: Panel) -> dashboard.ThresholdsConfig:
    steps = [Threshold(value=0, color="green"), *(Threshold(value, color) for value, color in panel.steps)]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _dressed(made: Made, panel: Panel) -> Made:
    """What all panels have."""
    made.title(panel.title).description(panel.description).unit(panel.unit).datasource(DATASOURCE)
    made.span(panel.width).height(HEIGHTS[panel.shape]).thresholds(_steps(panel))
    if panel.today:
        made.time_from("now/d")
    if panel.most is not None:
        made.min(0).max(panel.most)
    return made


def _number(panel: Panel) -> stat.Panel:
    made = stat.Panel().targets(_queries(panel, once=True)).graph_mode(kinds.BigValueGraphMode.NONE)
    made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    made.color_mode(kinds.BigValueColorMode.VALUE if panel.steps else kinds.BigValueColorMode.NONE)
    return _dressed(made, panel)


def _bars(panel: Panel) -> bargauge.Panel:
    made = bargauge.Panel().targets(_queries(panel, once=True)).display_mode(kinds.BarGaugeDisplayMode.BASIC)
    made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).orientation(kinds.VizOrientation.HORIZONTAL)
    if not panel.steps:
        made.color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    return _dressed(made.min(0), panel)


def _lines(panel: Panel) -> timeseries.Panel:
    made = (
        timeseries.Panel().targets(_queries(panel, once=False)).fill_opacity(10).show_points(kinds.VisibilityMode.NEVER)
    )
    made.legend(
        common.VizLegendOptions().display_mode(kinds.LegendDisplayMode.LIST).placement(kinds.LegendPlacement.BOTTOM)
    )
    made.tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING))
    return _dressed(made.axis_soft_min(0), panel)


def _stack(panel: Panel) -> timeseries.Panel:
    return _lines(panel).fill_opacity(40).stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL))


def _table(panel: Panel) -> table.Panel:
    """Its queries side by side, a line for each combination of labels."""
    made = table.Panel().targets(_queries(panel, once=True, as_table=True))
    many = len(panel.queries) > 1
    values = [f"Value #{letter}" if many else "Value" for letter, _ in zip("ABCDEFGH", panel.queries, strict=False)]
    if many:
        made.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    order = {name: place for place, name in enumerate([*panel.by, *values])}
    names = {value: query.legend for value, query in zip(values, panel.queries, strict=True)}
    made.with_transformation(
        DataTransformerConfig(
            id_val="organize",
            options={"excludeByName": {"Time": True}, "indexByName": order, "renameByName": names},
        )
    )
    return _dressed(made, panel)


MAKERS: Mapping[Shape, Maker] = {
    "number": _number,
    "bars": _bars,
    "lines": _lines,
    "stack": _stack,
    "table": _table,
}
