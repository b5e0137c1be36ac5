"""Writes the dashboards into deploy/grafana/dashboards: `make dashboards`."""

from deploy.grafana.boards import FOLDER, written
from deploy.grafana.cost import COST
from deploy.grafana.operations import OPERATIONS

for board in (COST, OPERATIONS):
    (FOLDER / f"{board.name}.json").write_text(written(board))
