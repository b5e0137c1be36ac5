"""The manifests are of the published schemas, their parts fit together, and what they say of the server is true."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate  # pyright: ignore[reportMissingTypeStubs]
import pytest
import yaml

from ponder.__main__ import parser
from ponder.metering.database import database
from ponder.metering.migrate import migrate
from ponder.metering.receipt_keys import signer_of
from ponder.server.app import PAGES
from ponder.server.auth.keys import digest
from ponder.server.ending import AFTER
from ponder.server.load_settings import load
from ponder.server.settings import Settings
from ponder.testing import Chain, ScriptedEngine, always
from tests.deploy.programs import sources_of_vllm, unknown_to_vllm
from tests.metering.databases import postgresql, program
from tests.metering.ledgers import rows
from tests.server.ledgered import ledgered
from tests.test_architecture import ROOT

DEPLOY = ROOT / "deploy"
HERE = DEPLOY / "kubernetes"
OVERLAYS = "cpu", "gpu"
VERSIONS = "1.30", "1.37"
"""Of Kubernetes: the oldest that the manifests are for, and the newest whose schemas are published."""
KEYS = "door.env", "me.key", "postgres.password", "receipts.key", "scrape.key"


@cache
def read(*parts: str) -> list[Any]:
    return list(yaml.safe_load_all(HERE.joinpath(*parts).read_text()))


@cache
def objects() -> list[Any]:
    """All of the base."""
    named = read("base", "kustomization.yaml")[0]["resources"]
    return [one for name in named if name.endswith(".yaml") for one in read("base", name)]


def of(kind: str, name: str | None = None) -> list[Any]:
    return [one for one in objects() if one["kind"] == kind and name in (None, one["metadata"]["name"])]


def pods() -> dict[str, Any]:
    """The templates of pods, by the names of what makes them."""
    return {one["metadata"]["name"]: one["spec"]["template"] for one in [*of("Deployment"), *of("StatefulSet")]}


def jobs() -> dict[str, Any]:
    """The templates of pods that end by themselves."""
    return {one["metadata"]["name"]: one["spec"]["jobTemplate"]["spec"]["template"] for one in of("CronJob")}


def container(name: str) -> Any:
    (only,) = (pods() | jobs())[name]["spec"]["containers"]
    return only


def replica(overlay: str) -> Any:
    """What an overlay says of the container of a replica."""
    (patch,) = read(overlay, "replica.yaml")
    (only,) = patch["spec"]["template"]["spec"]["containers"]
    assert (patch["metadata"]["name"], only["name"]) == ("replica", container("replica")["name"])
    return only


def selected(labels: dict[str, str]) -> str:
    """The one whose pods have these labels."""
    every = pods() | jobs()
    (name,) = (name for name, pod in every.items() if labels.items() <= pod["metadata"]["labels"].items())
    return name


def ports(name: str) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(name)["ports"]}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that secrets.sh makes, in a copy of the manifests."""
    copy = tmp_path_factory.mktemp("kubernetes") / "deploy"
    shutil.copytree(DEPLOY, copy, ignore=shutil.ignore_patterns("secrets", "*.py", "grafana"))
    folder = copy / "kubernetes" / "base" / "secrets"
    environment = os.environ | {"PONDER": f"{sys.executable} -m ponder", "PYTHONPATH": str(ROOT)}
    subprocess.run(["sh", folder.parent.parent / "secrets.sh"], env=environment, check=True)
    return folder


# -- kustomize --------------------------------------------------------------------------------------------------------


def kustomizations() -> Iterator[tuple[Path, Any]]:
    for folder in (*(HERE / name for name in ("base", *OVERLAYS)), DEPLOY / "prometheus"):
        yield folder, yaml.safe_load((folder / "kustomization.yaml").read_text())


def test_what_kustomize_reads_is_there_and_all_that_is_there_is_read() -> None:
    for folder, one in kustomizations():
        generators = [*one.get("configMapGenerator", ()), *one.get("secretGenerator", ())]
        read_ = {file for made in generators for file in (*made.get("files", ()), *made.get("envs", ()))}
        read_ |= {*one.get("resources", ()), *(patch["path"] for patch in one.get("patches", ()))}
        for name in read_:
            assert (folder / name).exists() or name in {f"secrets/{key}" for key in KEYS}, name
        if folder.parent == HERE:
            here = {file.name for file in folder.iterdir() if file.is_file()}
            assert here == {"kustomization.yaml", *(name for name in read_ if "/" not in name)}
    rules = {f"rules/{file.name}" for file in (DEPLOY / "prometheus" / "rules").iterdir()}
    assert (
        set(
            yaml.safe_load((DEPLOY / "prometheus" / "kustomization.yaml").read_text())["configMapGenerator"][0]["files"]
        )
        == rules
    )


def test_secrets_are_in_no_repository() -> None:
    assert "/deploy/kubernetes/base/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_each_object_is_named_once_and_is_as_its_schema_says() -> None:
    found = objects()
    names = [(one["kind"], one["metadata"]["name"]) for one in found]
    assert len(set(names)) == len(names)
    for one in found:
        for version in VERSIONS:
            kubernetes_validate.validate(one, version, strict=True)


def templates_of(one: Any) -> list[Any]:
    """Of what kubectl has made, the pod that it has, if any."""
    spec = one.get("spec", {})
    spec = spec["jobTemplate"]["spec"] if one["kind"] == "CronJob" else spec
    return [spec["template"]["spec"]] if one["kind"] in ("Deployment", "StatefulSet", "CronJob") else []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_makes_of_them_what_the_schemas_allow(overlay: str, secrets: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None or subprocess.run([kubectl, "kustomize", "--help"], capture_output=True, check=False).returncode:
        pytest.skip("kubectl is not here")
    command = [kubectl, "kustomize", secrets.parent.parent / overlay]
    made = list(yaml.safe_load_all(subprocess.run(command, capture_output=True, check=True).stdout))
    for one in made:
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "ponder"
        kubernetes_validate.validate(one, VERSIONS[-1], strict=True)
    there = {(one["kind"], one["metadata"]["name"]) for one in made}
    for one in made:
        for pod in templates_of(one):
            (only,) = pod["containers"]
            assert only["image"] != "vllm"
            assert only["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert only["resources"]["limits"]["memory"]
            named = [("Secret", source["secretRef"]["name"]) for source in only.get("envFrom", ())]
            for volume in pod["volumes"]:
                named += [("ConfigMap", volume["configMap"]["name"])] if "configMap" in volume else []
                named += [("Secret", volume["secret"]["secretName"])] if "secret" in volume else []
            assert set(named) <= there


# -- what every pod keeps to ------------------------------------------------------------------------------------------


def test_no_pod_has_a_right_that_it_does_not_need() -> None:
    assert of("Namespace")[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, template in (pods() | jobs()).items():
        pod, only = template["spec"], container(name)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert only["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        mounted = {mount["name"] for mount in only["volumeMounts"]}
        claimed = [
            claim["metadata"]["name"]
            for one in of("StatefulSet", name)
            for claim in one["spec"]["volumeClaimTemplates"]
        ]
        assert mounted == {volume["name"] for volume in pod["volumes"]} | set(claimed)


def test_variables_that_kubernetes_would_make_are_not_read_as_settings() -> None:
    """A Service `ponder` would set PONDER_PORT=tcp://..., one `vllm` VLLM_PORT."""
    assert all(pod["spec"]["enableServiceLinks"] is False for pod in (pods() | jobs()).values())


def test_every_pod_is_asked_how_it_is_at_ports_and_paths_that_are_there() -> None:
    for name in pods():
        only = container(name)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asks = only[probe].get("httpGet", {"port": next(iter(ports(name))), "path": ""})
            assert asks["port"] in ports(name)
            assert name != "door" or asks["path"] in PAGES
        longest = only["startupProbe"]["periodSeconds"] * only["startupProbe"]["failureThreshold"]
        assert longest >= (1800 if name in ("door", "replica") else 600)
    door = container("door")
    assert (door["livenessProbe"]["httpGet"]["path"], door["readinessProbe"]["httpGet"]["path"]) == (
        "/livez",
        "/readyz",
    )


def test_a_door_that_is_told_to_end_has_the_time_to_drain() -> None:
    (before,) = re.findall(r"\d+", str(container("door")["lifecycle"]["preStop"]["exec"]["command"]))
    grace = pods()["door"]["spec"]["terminationGracePeriodSeconds"]
    for overlay in OVERLAYS:
        (drain,) = re.findall(r"^drain_timeout = (\d+)$", (HERE / overlay / "ponder.toml").read_text(), re.MULTILINE)
        assert int(before) + int(drain) + AFTER <= grace


def test_what_a_backup_writes_can_be_restored_and_old_ones_go(tmp_path: Path) -> None:
    """Made by the command of the CronJob, and gone back to by that of the page."""
    backup, folder = container("backup"), tmp_path / "backups"
    folder.mkdir()
    for name in ("ponder-old.dump", "ponder-broken.dump.part", "ponder-late.dump", "other"):
        (folder / name).touch()
        long_ago = 15 if name != "ponder-late.dump" else 13
        os.utime(folder / name, times=(now := time.time() - long_ago * 86400, now))
    (tmp_path / "password").write_text("any")

    async def asked(address: str) -> None:
        async with ledgered(ScriptedEngine(always(Chain("so", "7"))), address) as on:
            assert (await on.chat()).status_code == 200

    with postgresql() as server:
        address = server.new()
        migrate(database(address).engine(long=True))
        asyncio.run(asked(address))
        kept = rows(address)
        parts = urlsplit(address)
        there = {"PGHOST": parts.hostname or "", "PGPORT": str(parts.port), "PGUSER": parts.username or ""}
        there |= {"PGDATABASE": parts.path.strip("/"), "PASSWORD": str(tmp_path / "password"), "BACKUPS": str(folder)}
        assert there.keys() - {"PGPORT"} == {one["name"] for one in backup["env"]}
        there["PATH"] = os.pathsep.join([str(Path(program("pg_dump")).parent), os.environ["PATH"]])
        subprocess.run([*backup["command"], *backup["args"]], env=os.environ | there, check=True)
        (made,) = {file.name for file in folder.iterdir()} - {"ponder-late.dump", "other"}

        asyncio.run(asked(address))
        assert len(rows(address)) == len(kept) + 1 == 2
        (told,) = re.findall(r"`(pg_restore [^`]*)`", (ROOT / "docs" / "kubernetes.md").read_text())
        command = told.replace("=ponder ", f"={there['PGDATABASE']} ").replace("FILE", str(folder / made)).split()
        subprocess.run(command, env=os.environ | there, check=True)
        assert rows(address) == kept
        asyncio.run(asked(address))
        assert len(rows(address)) == 2


def test_one_is_taken_away_at_a_time() -> None:
    budgets = {selected(one["spec"]["selector"]["matchLabels"]): one["spec"] for one in of("PodDisruptionBudget")}
    assert budgets.keys() == {"door", "replica"}
    assert all(budget["maxUnavailable"] == 1 for budget in budgets.values())
    (scaler,) = of("HorizontalPodAutoscaler")
    target = scaler["spec"]["scaleTargetRef"]
    assert of(target["kind"], target["name"])
    assert scaler["spec"]["minReplicas"] >= 2
    assert "replicas" not in of("Deployment", "door")[0]["spec"]
    assert of("StatefulSet", "replica")[0]["spec"]["replicas"] >= 2


# -- names, ports and keys --------------------------------------------------------------------------------------------


def test_services_lead_to_ports_of_pods() -> None:
    for one in of("Service"):
        for port in one["spec"]["ports"]:
            number = ports(selected(one["spec"]["selector"]))[port["targetPort"]]
            # Behind a name without an address of its own the port is the pod's.
            assert one["spec"].get("clusterIP") != "None" or port["port"] == number
    for one in of("StatefulSet"):
        (service,) = of("Service", one["spec"]["serviceName"])
        assert service["spec"]["clusterIP"] == "None"
        assert selected(service["spec"]["selector"]) == one["metadata"]["name"]


def test_whoever_has_to_speak_to_another_may() -> None:
    allowed: set[tuple[str, str]] = set()
    for one in of("NetworkPolicy"):
        spec = one["spec"]
        if "matchLabels" not in spec["podSelector"]:
            continue
        whose = selected(spec["podSelector"]["matchLabels"])
        for rule in (*spec.get("ingress", ()), *spec.get("egress", ())):
            for other in (*rule.get("from", ()), *rule.get("to", ())):
                peer = selected(other["podSelector"]["matchLabels"])
                inward = "from" in rule
                listens = whose if inward else peer
                for port in rule["ports"]:
                    assert port["port"] in ports(listens) or port["port"] in ports(listens).values()
                allowed.add((peer, whose) if inward else (whose, peer))
    speak = {("door", "replica"), ("door", "postgres"), ("prometheus", "door"), ("prometheus", "replica")}
    speak |= {("backup", "postgres")}
    assert allowed == speak
    for whose, peer in speak - {("prometheus", "door")}:
        (policy,) = of("NetworkPolicy", peer)
        named = [other for rule in policy["spec"]["ingress"] for other in rule["from"]]
        assert whose in {selected(other["podSelector"]["matchLabels"]) for other in named}


def test_prometheus_finds_doors_and_replicas_and_has_the_key_and_the_rules() -> None:
    (config,) = read("base", "prometheus.yml")
    mounts = {mount["mountPath"]: mount["name"] for mount in container("prometheus")["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pods()["prometheus"]["spec"]["volumes"]}
    for job in config["scrape_configs"]:
        (found,) = job["dns_sd_configs"]
        service, namespace = found["names"][0].split(".")[:2]
        (one,) = of("Service", service)
        assert namespace == "ponder"
        assert found["port"] == one["spec"]["ports"][0]["port"]
        assert one["spec"]["clusterIP"] == "None"
        if "authorization" in job:
            key = Path(job["authorization"]["credentials_file"])
            assert volumes[mounts[str(key.parent)]]["secret"]["secretName"] == "scrape"
            assert f"secrets/{key.name}" in KEYS or key.name in KEYS
    (rules,) = config["rule_files"]
    assert volumes[mounts[str(Path(rules).parent)]]["configMap"]["name"] == "prometheus-rules"
    compose = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    # The dashboards know the jobs by these names.
    assert [job["job_name"] for job in config["scrape_configs"]] == [
        job["job_name"] for job in compose["scrape_configs"]
    ]
    assert config["global"] == compose["global"]


def test_images_are_those_that_are_built_and_those_of_compose() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert container("prometheus")["image"] == compose["prometheus"]["image"]
    assert container("postgres")["image"] == compose["postgres"]["image"] == container("backup")["image"]
    (pinned,) = re.findall(r'"vllm>=([\d.]+),', (ROOT / "pyproject.toml").read_text())
    stages = re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for folder, one in kustomizations():
        for image in one.get("images", ()):
            if image.get("newName", image["name"]) == "ponder":
                assert image["newTag"] in stages
            else:
                assert image["newTag"] == f"v{pinned}.0", folder


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_commands_have_flags_that_are_there(overlay: str) -> None:
    words = container("door")["args"]
    assert parser(words).parse_args(words)
    assert not unknown_to_vllm(replica(overlay)["args"])
    sources = sources_of_vllm()
    assert '"/health"' in "".join(file.read_text() for file in sources.joinpath("entrypoints").rglob("*.py"))


# -- what the doors read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_doors_take_their_settings_from_the_config_map_and_the_secret(
    overlay: str, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {path.name for path in secrets.iterdir()} == set(KEYS)
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o600}
    kept = (secrets / "door.env").read_text()
    subprocess.run(["sh", secrets.parent.parent / "secrets.sh"], check=True)
    assert (secrets / "door.env").read_text() == kept
    for line in kept.splitlines():
        name, _, value = line.partition("=")
        monkeypatch.setenv(name, value)
    settings = load(configured(overlay))
    assert settings.locked
    assert {key.name: key.hash for key in settings.keys} == {
        name: digest((secrets / f"{name}.key").read_text()) for name in ("scrape", "me")
    }
    assert [key.scopes for key in settings.keys if key.name == "scrape"] == [frozenset({"metrics"})]
    assert settings.port == ports("door")["http"]
    keys_fit(settings, secrets)


def configured(overlay: str) -> Path:
    """The configuration of the doors; the name of the replicas is one that DNS has."""
    text = (HERE / overlay / "ponder.toml").read_text()
    (service,) = of("Service", "replicas")
    (line,) = re.findall(r"^replicas = .*$", text, re.MULTILINE)
    assert f"//replicas:{service['spec']['ports'][0]['port']}" in line
    return HERE / overlay / "ponder.toml"


def keys_fit(settings: Settings, secrets: Path) -> None:
    """Doors sign with the key that they are given, and know the database's password."""
    mounts = {mount["mountPath"]: mount["name"] for mount in container("door")["volumeMounts"]}
    key = settings.receipts.key
    assert key is not None
    assert mounts[str(key.parent)] == "receipts"
    assert not signer_of(secrets / key.name)[1]
    environment = {one["name"]: one["value"] for one in container("postgres")["env"]}
    password = Path(environment["POSTGRES_PASSWORD_FILE"]).name
    user, name = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
    (service,) = of("Service", "postgres")
    host, secret = service["metadata"]["name"], (secrets / password).read_text()
    assert settings.ledger.url is not None
    assert settings.ledger.url.get_secret_value() == f"postgresql://{user}:{secret}@{host}/{name}"
