"""Configuration: where it comes from, what it refuses and in which words, and that the example shows all of it."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from ponder.engines.profiles import Profile
from ponder.server.load_settings import load
from ponder.server.settings import (
    EFFORT,
    EngineSettings,
    IdempotencySettings,
    KeySettings,
    Limits,
    ModelSettings,
    ResponseSettings,
    RewardEngineSettings,
    Settings,
    WrongSettings,
    loopback,
)
from ponder.server.settings.deployment import DeploymentSettings
from ponder.server.settings.replicas import ReplicaSettings

EXAMPLE = Path(__file__).parent.parent.parent / "ponder.example.toml"
HASH = "sha256:" + "0" * 64


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment and a folder without settings of their own."""
    for name in [n for n in os.environ if n.startswith("PONDER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def toml(text: str) -> Path:
    file = Path("settings.toml")
    file.write_text(text)
    return file


def refusal(text: str = "", **flags: object) -> str:
    with pytest.raises(WrongSettings) as caught:
        load(toml(text), **flags)
    return caught.value.message


def test_a_flag_goes_before_the_environment_before_the_file_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().port == 8000
    file = toml("port = 1\n[limits]\nn = 5\nstop = 2")
    assert load(file).port == 1
    monkeypatch.setenv("PONDER_PORT", "2")
    monkeypatch.setenv("PONDER_LIMITS__N", "6")
    settings = load(file)
    assert (settings.port, settings.limits.n, settings.limits.stop, settings.limits.messages) == (2, 6, 2, 1024)
    assert load(file, port="3").port == 3
    assert load(file, port=None).port == 2


def test_the_file_is_the_flag_else_the_environment_else_ponder_toml_here(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("ponder.toml").write_text("port = 1")
    Path("other.toml").write_text("port = 2")
    Path("third.toml").write_text("port = 3")
    assert load().port == 1
    monkeypatch.setenv("PONDER_CONFIG", "other.toml")
    assert load().port == 2
    assert load("third.toml").port == 3


def test_a_file_that_is_not_there_or_no_toml_is_said_to_be() -> None:
    with pytest.raises(WrongSettings, match=r"nowhere\.toml: there is no such file"):
        load("nowhere.toml")
    assert refusal("port = ").startswith("settings.toml: not TOML: ")
    Path("settings.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(WrongSettings, match="not UTF-8"):
        load("settings.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hst = 1", "settings.toml: hst: there is no such setting; did you mean host?"),
        ("[limits]\nbodybytes = 1", "limits.bodybytes: there is no such setting; did you mean body_bytes?"),
        ('[models.a]\npath = "x"\nstrategi = "a"', "models.a.strategi: there is no such setting; did you mean str"),
        ("[models.a]", "models.a.path is missing"),
        ("[models.a.engine]\ndtyp = 1", "models.a.engine.dtyp: there is no such setting; did you mean dtype?"),
        ("[engine]\nmax_num_seq = 1", "engine.max_num_seq: there is no such setting; did you mean max_num_seqs?"),
        ("port = 70000", "settings.toml: port 70000: should be less than or equal to 65535"),
        ('port = "http"', "settings.toml: port 'http': should be a valid integer"),
        ("timeout = 0", "timeout 0: should be greater than 0"),
        ("timeout = nan", "timeout nan: should be"),
        ("thinking_budget = 1.5", 'thinking_budget 1.5: it must be a number of tokens from 0, or "auto"'),
        ("thinking_budget = true", "thinking_budget True: it must be a number of tokens"),
        ("thinking_budget = -2", "thinking_budget -2: it must be a number of tokens"),
        ("[effort]\nhgh = 1", "hgh is no effort; did you mean high?"),
        ("[effort]\nlow = -1", "low is -1 tokens: at least 0"),
        ('profile = "qwn3"', "profile 'qwn3': there is no such family; did you mean qwen3?"),
        ("[profile]\ntemprature = 1", "profile.temprature: there is no such setting; did you mean temperature?"),
        ("profile = 3", "settings.toml: profile"),
        ('log_level = "loud"', "log_level 'loud': should be 'debug', 'info', 'warning' or 'error'"),
        ('[models."a:b"]\npath = "x"', '":" separates a model from a strategy'),
        ('model = "b"\n[models.bb]\npath = "x"', "b is not among the models configured (bb); did you mean bb?"),
        ('[[keys]]\nname = "a"\nhash = "pk-secret"', "settings.toml: keys[0].hash: String should match pattern"),
        (f'[[keys]]\nname = "a"\nhash = "{HASH}"\nscopes = ["infr"]', "keys[0].scopes[0] 'infr': should be 'infer'"),
        (f'[[keys]]\nname = "a"\nhash = "{HASH}"\nmodels = ["dmo"]', "may ask dmo, which is not served; did you mean"),
        (f'[[keys]]\nname = "a"\nhash = "{HASH}"\n' * 2, "two keys are called a"),
        ('prm = "ftp://judge:1"', "settings.toml: prm: the address of a vLLM server is http://host:port or https"),
        ('prm = "http://judge:70000"', "settings.toml: prm: Port out of range"),
        ('[models.a]\npath = "x"\nprm = "http:///v1"', "models.a.prm: the address of a vLLM server is http://host:port"),
        ('prm_key = "a b"', "settings.toml: prm_key: a key has no spaces, line breaks or letters beyond ASCII"),
        ("[prm_engine]\nseed = 1", "prm_engine.seed: there is no such setting"),
        ('host = "0.0.0.0"', "loopback only, not on 0.0.0.0. Make a key with `ponder keys new NAME`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place_and_what_may_stand_there(text: str, words: str) -> None:
    assert words in refusal(text)


def test_a_wrong_hash_is_not_shown_for_it_may_be_the_key_itself() -> None:
    assert "pk-secret" not in refusal('[[keys]]\nname = "a"\nhash = "pk-secret"')


def test_the_key_of_a_reward_models_server_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ('prm_key = "pk secret"', 'prm = "http://me:pk secret@judge:8001"', "prm_key = 123456"):
        assert not {"secret", "123456"} & set(refusal(wrong).replace("@", " ").split())
    monkeypatch.setenv("PONDER_PRM_KEY", "pk-secret")
    settings = load(prm="http://judge:8001/v1/")
    [model] = settings.served().values()
    assert "pk-secret" not in f"{settings!r} {model!r} {settings.model_dump_json()}"
    assert model.prm_key is not None
    assert model.prm_key.get_secret_value() == "pk-secret"


def test_a_reward_model_is_a_folder_a_hub_id_or_the_address_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for written, meant in (
        ("demo-prm", "demo-prm"),
        ("Qwen/Qwen2.5-Math-PRM-7B", "Qwen/Qwen2.5-Math-PRM-7B"),
        ("http://judge:8001", "http://judge:8001"),
        ("https://judge/prm/v1/", "https://judge/prm"),
    ):
        [model] = load(prm=written).served().values()
        assert (model.prm, model.prm_is_remote) == (meant, "//" in written)
    monkeypatch.setenv("PONDER_PRM_ENGINE__GPU_MEMORY_UTILIZATION", "0.3")
    text = '[models.a]\npath = "x"\nprm_engine = { max_model_len = 4096 }\n[models.b]\npath = "y"\nprm = "z"'
    a, b = load(toml(text), prm="demo-prm").served().values()
    assert (a.prm, a.prm_engine) == ("demo-prm", RewardEngineSettings(gpu_memory_utilization=0.3, max_model_len=4096))
    assert (b.prm, b.prm_engine) == ("z", RewardEngineSettings(gpu_memory_utilization=0.3))


def test_everything_that_is_wrong_is_said_at_once() -> None:
    assert len(refusal("hst = 1\nport = -1\n[limits]\nn = 0").splitlines()) == 3


def test_the_source_of_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(port="x").startswith("command line: port 'x'")
    monkeypatch.setenv("PONDER_LIMITS__N", "many")
    assert refusal().startswith("PONDER_LIMITS__N: limits.n 'many'")
    monkeypatch.delenv("PONDER_LIMITS__N")
    monkeypatch.setenv("PONDER_KEYS", "[{")
    assert refusal().startswith("environment: ")
    assert "written as JSON" in refusal()


def test_a_misspelt_variable_is_an_error_and_a_foreign_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PONDER_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("PONDER_API_KEY", "pk-1")
    load()
    monkeypatch.setenv("PONDER_PRT", "8001")
    with pytest.raises(WrongSettings, match="PONDER_PRT: there is no such setting; did you mean port"):
        load()


def test_a_model_that_is_silent_takes_what_is_said_for_all() -> None:
    settings = load(
        toml(
            'strategy = "direct"\nmax_thinking_budget = 100\nengine = { seed = 3, dtype = "float32" }\n'
            '[models.a]\npath = "x"\n'
            '[models.b]\npath = "y"\nmax_thinking_budget = 50\nengine = { dtype = "bfloat16" }'
        )
    )
    a, b = settings.served().values()
    assert (a.path, a.strategy, a.max_thinking_budget, a.answer_tokens) == ("x", "direct", 100, 1024)
    assert (b.path, b.strategy, b.max_thinking_budget) == ("y", "direct", 50)
    assert a.engine == EngineSettings(seed=3, dtype="float32")
    assert b.engine == EngineSettings(seed=3, dtype="bfloat16")


def test_one_model_is_served_by_its_name_or_its_folders() -> None:
    assert list(load().served()) == ["demo"]
    assert list(load(model="Qwen/Qwen3-0.6B").served()) == ["Qwen/Qwen3-0.6B"]
    Path("mine").mkdir()
    served = load(model="./mine").served()
    assert served["mine"].path == "./mine"


def test_a_model_named_beside_a_table_is_served_alone() -> None:
    file = toml('[models.a]\npath = "x"\n[models.b]\npath = "y"')
    assert list(load(file).served()) == ["a", "b"]
    assert list(load(file, model="b").served()) == ["b"]


def test_an_automatic_budget_is_written_auto_or_minus_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(thinking_budget="-1").thinking_budget == "auto"
    assert load(thinking_budget="auto").thinking_budget == "auto"
    assert load(thinking_budget="256").thinking_budget == 256
    monkeypatch.setenv("PONDER_THINKING_BUDGET", "0")
    assert load().thinking_budget == 0


def test_an_effort_that_is_not_named_keeps_its_tokens() -> None:
    assert load(toml("effort = { low = 7 }")).effort == EFFORT | {"low": 7}


def test_a_profile_is_a_familys_name_or_a_table() -> None:
    assert load(profile="qwen3").profile == "qwen3"
    profile = load(toml('[profile]\nname = "mine"\ntemperature = 0.5')).profile
    assert isinstance(profile, Profile)
    assert (profile.name, profile.temperature) == ("mine", 0.5)


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.com", False),
        ("127.0.0.1.example.com", False),
    ],
)
def test_without_a_key_only_loopback_will_do(host: str, near: bool) -> None:
    assert loopback(host) == near
    key = KeySettings(name="a", hash=HASH)
    assert Settings(host=host, keys=[key]).host == host
    if not near:
        assert "ponder keys new" in refusal(f'host = "{host}"')


# -- the example -------------------------------------------------------------------------------------------------------


def uncommented() -> str:
    """The example with every option that is commented out switched on; prose stays a comment."""
    option = re.compile(r"# (\[|[\w\"]+ = )")
    return "\n".join(line[2:] if option.match(line) else line for line in EXAMPLE.read_text().splitlines())


def test_the_example_loads_and_says_what_the_defaults_are() -> None:
    assert load(EXAMPLE).model_dump() == load().model_dump()


def test_the_example_loads_with_every_option_switched_on() -> None:
    text = uncommented().replace('model = "demo"\n', "", 1)
    # What leaves no room for another: replicas of the one model beside tables of models, a key beside its file.
    for line in ('replicas = ["http://a:8001", "http://b:8001"]\n', 'key_file = "/run/secrets/vllm-key"\n'):
        assert line in text
        text = text.replace(line, "", 1)
    settings = load(toml(text))
    assert {"qwen3-8b", "far", "mine"} == settings.models.keys()
    assert settings.keys[0].name == "alice"


@pytest.mark.parametrize(
    ("table", "path"),
    [
        (Settings, ()),
        (Limits, ("limits",)),
        (EngineSettings, ("engine",)),
        (RewardEngineSettings, ("prm_engine",)),
        (IdempotencySettings, ("idempotency",)),
        (ResponseSettings, ("responses",)),
        (ModelSettings, ("models", "qwen3-8b")),
        (ReplicaSettings, ("models", "far", "replicas")),
        (DeploymentSettings, ("ray",)),
        (DeploymentSettings, ("prm_ray",)),
        (KeySettings, ("keys",)),
    ],
)
def test_every_setting_is_in_the_example_and_described(table: type[BaseModel], path: tuple[str, ...]) -> None:
    shown: Any = tomllib.loads(uncommented())
    for part in path:
        shown = shown[part]
    if table is ModelSettings:
        # What runs here and what runs elsewhere.
        shown |= {"replicas": tomllib.loads(uncommented())["models"]["far"]["replicas"]}
    if table is KeySettings:
        # Two of them: no one key may have every field.
        shown = {name: value for key in shown for name, value in key.items()}
    assert table.model_fields.keys() == shown.keys()
    assert all(field.description for field in table.model_fields.values())


def test_options_of_vllms_pass_under_their_own_names() -> None:
    settings = load(
        toml(
            '[engine]\nquantization = "fp8"\nspeculative_config = { method = "ngram" }\nseed = 3\n'
            "[prm_engine]\nblock_size = 64\n[adapters]\nlaw = '/models/law'"
        )
    )
    (model,) = settings.served().values()
    assert model.engine.options["more"] == {"quantization": "fp8", "speculative_config": {"method": "ngram"}}
    assert model.engine.options["seed"] == 3
    assert model.prm_engine.options["more"] == {"block_size": 64}
    assert model.adapters == {"law": "/models/law"}


def test_options_of_vllms_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PONDER_ENGINE__PIPELINE_PARALLEL_SIZE", "2")
    monkeypatch.setenv("PONDER_ENGINE__SPECULATIVE_CONFIG", '{"method": "ngram"}')
    assert load().engine.options["more"] == {"pipeline_parallel_size": 2, "speculative_config": {"method": "ngram"}}


def test_one_models_options_go_before_those_of_all() -> None:
    settings = load(
        toml('[engine]\nblock_size = 32\nkv_cache_dtype = "fp8"\n[models.a]\npath = "x"\nengine.block_size = 64')
    )
    assert settings.served()["a"].engine.options["more"] == {"block_size": 64, "kv_cache_dtype": "fp8"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[engine]\nquantisation = "fp8"', "engine.quantisation: vLLM has no such option; did you mean quantization?"),
        ("[engine]\npipeline_parallel_size = 'two'", "engine.pipeline_parallel_size: vLLM wants int here"),
        ("[engine]\nenable_expert_parallel = 3", "engine.enable_expert_parallel: vLLM wants bool here, and it is int"),
        ("[engine]\nspeculative_config = 3", "engine.speculative_config: vLLM wants dict"),
        (
            "[engine]\nenable_prefix_caching = false",
            "engine.enable_prefix_caching: the server decides this itself: the",
        ),
        ('[engine]\nreasoning_parser = "qwen3"', "thoughts are told from answers by `profile`"),
        ('[models.a]\npath = "x"\nengine.model = "y"', "models.a.engine.model: the server decides this itself"),
        (
            '[adapters]\nl = "x"\n[models.a]\npath = "x"',
            "adapters: with a models table they stand in the table of their",
        ),
        ('[models.a]\npath = "x"\nadapters.a = "y"', "adapters: two models are called a"),
        ('[models.a]\npath = "x"\nadapters."b:c" = "y"', '":" separates a model from a strategy'),
    ],
)
def test_a_wrong_option_of_vllms_is_said_by_its_name(text: str, words: str) -> None:
    assert words in refusal(text)
