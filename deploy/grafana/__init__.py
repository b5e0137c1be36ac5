"""The dashboards as tables of panels; `python -m deploy.grafana` writes them as Grafana reads them."""
