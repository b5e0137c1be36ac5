"""What runs around a server: Prometheus with its rules, Grafana with its dashboards, all of it in compose.yaml."""
