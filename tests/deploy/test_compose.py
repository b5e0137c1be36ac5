"""compose.yaml is one that Docker takes, its parts fit together, and what they share is made once."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from compose_spec import PyCompose

from ponder.__main__ import parser
from ponder.server.auth.keys import digest
from ponder.server.load_settings import load
from tests.deploy.watched import set_up
from tests.test_architecture import ROOT

DEPLOY = ROOT / "deploy"
COMPOSE = (DEPLOY / "compose.yaml").read_text()


def read(*parts: str) -> Any:
    return yaml.safe_load(DEPLOY.joinpath(*parts).read_text())


def parts() -> dict[str, Any]:
    """The services, with the defaults of their variables."""
    return yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE))["services"]


def mounts(service: str) -> dict[str, str]:
    """What is where in a container: folders and files of the repository, and volumes."""
    pairs = [mount.removesuffix(":ro").split(":") for mount in parts()[service].get("volumes", [])]
    return {target: source for source, target in pairs}


def test_the_file_is_as_the_specification_says() -> None:
    whole = PyCompose.from_yaml(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE))
    assert set(whole.service_names()) == {"setup", "postgres", "server", "console", "prometheus", "grafana"}


def test_docker_takes_it() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not here")
    subprocess.run([docker, "compose", "-f", DEPLOY / "compose.yaml", "config", "--quiet"], check=True)


def test_what_is_mounted_is_there() -> None:
    for service in parts():
        for source in mounts(service).values():
            assert not source.startswith(".") or (DEPLOY / source).exists(), source
            assert source.startswith(".") or source in yaml.safe_load(COMPOSE)["volumes"], source


def test_nothing_can_be_reached_but_from_this_machine() -> None:
    for name, service in parts().items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_the_image_is_one_that_is_built() -> None:
    for target in ("cpu", "gpu"):
        assert f" AS {target}\n" in (ROOT / "Dockerfile").read_text()
    assert parts()["server"]["build"] == parts()["setup"]["build"] == {"context": "..", "target": "cpu"}


def test_the_console_asks_the_server_by_flags_that_are_there() -> None:
    service = parts()["console"]
    (stage,) = re.findall(
        r"^FROM base AS console\n(.*?)\n\n\n", (ROOT / "Dockerfile").read_text(), re.MULTILINE | re.DOTALL
    )
    assert service["build"]["target"] == service["image"].removeprefix("ponder:") == "console"
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", stage, re.MULTILINE)
    words = [*json.loads(entry)[1:], *service["command"]]
    given = parser(words).parse_args(words)
    server = urlsplit(str(given.server))
    assert parts()[server.hostname or ""]["ports"][0].endswith(f":{server.port}")
    assert service["ports"] == [f"127.0.0.1:{given.port}:{given.port}"]
    assert f"EXPOSE {given.port}\n" in stage
    assert f"127.0.0.1:{given.port}/login" in stage


def test_prometheus_finds_the_server_its_key_and_its_rules() -> None:
    config = read("prometheus", "prometheus.yml")
    assert mounts("prometheus")["/etc/prometheus"] == "./prometheus"
    assert list((DEPLOY / "prometheus").glob(config["rule_files"][0]))
    for job in config["scrape_configs"]:
        host, _, port = job["static_configs"][0]["targets"][0].partition(":")
        assert parts()[host]["ports"][0].endswith(f":{port}")
        key = Path(job["authorization"]["credentials_file"])
        assert mounts("prometheus")[str(key.parent)] == mounts("setup")[str(key.parent)] == "shared"


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    source = read("grafana", "provisioning", "datasources", "prometheus.yaml")["datasources"][0]
    host, port = source["url"].removeprefix("http://").split(":")
    assert parts()[host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert source["jsonData"]["timeInterval"] == read("prometheus", "prometheus.yml")["global"]["scrape_interval"]
    folder = read("grafana", "provisioning", "dashboards", "ponder.yaml")["providers"][0]["options"]["path"]
    assert mounts("grafana")[folder] == "./grafana/dashboards"
    home = Path(parts()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (str(home.parent), (DEPLOY / "grafana" / "dashboards" / home.name).is_file()) == (folder, True)
    for board in (DEPLOY / "grafana" / "dashboards").iterdir():
        variables = yaml.safe_load(board.read_text())["templating"]["list"]
        assert variables[0]["current"]["value"] == source["uid"]


def test_grafana_is_of_the_line_that_the_dashboards_are_made_for() -> None:
    line = re.search(r"\d+\.\d+", version("grafana-foundation-sdk").rpartition("!")[2])
    assert line is not None
    assert parts()["grafana"]["image"].startswith(f"grafana/grafana:{line[0]}.")


def test_what_the_parts_share_is_made_once_and_anew_where_it_was_half_made(tmp_path: Path) -> None:
    (tmp_path / "ponder.toml.new").write_text("half")
    (tmp_path / "me.key").write_text("half")
    set_up(tmp_path)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made.keys() == {"ponder.toml", "me.key", "scrape.key", "postgres.password"}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(made, 0o600)
    set_up(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == made

    settings = load(tmp_path / "ponder.toml")
    assert {key.name: key.hash for key in settings.keys} == {
        name: digest(made[f"{name}.key"]) for name in ("scrape", "me")
    }
    assert not [key for key in settings.keys if key.name == "scrape" and "infer" in key.scopes]
    assert made["me.key"] not in made["ponder.toml"]
    environment = parts()["postgres"]["environment"]
    user, database = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
    assert settings.ledger.url is not None
    url = settings.ledger.url.get_secret_value()
    assert url == f"postgresql://{user}:{made['postgres.password']}@postgres/{database}"
