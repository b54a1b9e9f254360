"""Settings are read from the environment, and a bad value names its variable."""

import pickle
from pathlib import Path

import pytest

from service.errors import BadSetting
from service.settings import SCHEMA, Limits, Settings, environment_with, read_settings, schema

DEFAULTS = Settings(
    artifacts=Path("artifacts"),
    host="0.0.0.0",
    port=5000,
    workers=3,
    threads=2,
    max_body_bytes=64 * 2**20,
    max_in_flight=256,
    drain_seconds=5,
    watchdog_seconds=10,
    reload_seconds=0.2,
    api_keys=(),
    open_metrics=False,
    require_embedding_model=False,
    recall_share=0.001,
    log_format="console",
    log_level="INFO",
    limits=Limits(default_k=10, max_k=1000, max_batch=10_000, users_times_k=1_000_000),
)
NUMBERS = {
    "RECO_PORT": (0, 65535),
    "RECO_WORKERS": (1, 1024),
    "RECO_THREADS": (1, 1024),
    "RECO_MAX_IN_FLIGHT": (1, 1_000_000),
    "RECO_DRAIN_SECONDS": (0, 3600),
    "RECO_MAX_BODY_MB": (1, 1024),
    "RECO_MAX_K": (1, 1_000_000),
    "RECO_DEFAULT_K": (1, 1000),
    "RECO_MAX_BATCH": (1, 1_000_000),
}


@pytest.fixture(autouse=True)
def three_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "available_cores", lambda: 3)


def refusal(**environment: str) -> str:
    with pytest.raises(BadSetting) as error:
        read_settings(environment)
    return str(error.value)


def test_an_empty_environment_gives_the_defaults() -> None:
    assert read_settings({}) == DEFAULTS


def test_an_empty_value_means_the_default() -> None:
    names = [*NUMBERS, "RECO_RELOAD_SECONDS", "RECO_ARTIFACTS", "RECO_HOST", "RECO_LOG_LEVEL"]
    assert read_settings(dict.fromkeys(names, "")) == DEFAULTS


def test_every_variable_sets_its_own_setting() -> None:
    environment = {
        "RECO_ARTIFACTS": "/srv/menu",
        "RECO_HOST": "::1",
        "RECO_PORT": "0",
        "RECO_WORKERS": "8",
        "RECO_THREADS": "4",
        "RECO_MAX_IN_FLIGHT": "9",
        "RECO_DRAIN_SECONDS": "0",
        "RECO_WATCHDOG_SECONDS": "0",
        "RECO_MEMORY_MB": "100",
        "RECO_KEEP_ALIVE_SECONDS": "30",
        "RECO_ALLOWED_HOSTS": "menu.example, [::1]",
        "RECO_CORS_ORIGINS": "https://Shop.example",
        "RECO_RELOAD_SECONDS": "0.05",
        "RECO_API_KEYS": "one, two,",
        "RECO_OPEN_METRICS": "1",
        "RECO_REQUIRE_EMBEDDING_MODEL": "1",
        "RECO_RECALL_SHARE": "0.25",
        "RECO_LOG_FORMAT": "json",
        "RECO_MAX_BODY_MB": "2",
        "RECO_LOG_LEVEL": "warning",
        "RECO_DEFAULT_K": "5",
        "RECO_MAX_K": "6",
        "RECO_MAX_BATCH": "7",
    }
    assert read_settings(environment) == Settings(
        artifacts=Path("/srv/menu"),
        host="::1",
        port=0,
        workers=8,
        threads=4,
        max_in_flight=9,
        drain_seconds=0,
        watchdog_seconds=0,
        memory_bytes=100 * 2**20,
        keep_alive_seconds=30,
        allowed_hosts=("menu.example", "[::1]"),
        cors_origins=("https://shop.example",),
        reload_seconds=0.05,
        api_keys=("one", "two"),
        open_metrics=True,
        require_embedding_model=True,
        recall_share=0.25,
        log_format="json",
        max_body_bytes=2 * 2**20,
        log_level="WARNING",
        limits=Limits(default_k=5, max_k=6, max_batch=7),
    )


@pytest.mark.parametrize(("name", "limits"), NUMBERS.items(), ids=NUMBERS)
@pytest.mark.parametrize("value", ["ten", "1.5", "0x10", "-1", "1e3", " ", "9" * 5000], ids=lambda value: value[:5])
def test_a_number_that_is_none_is_refused_by_name_and_value(name: str, limits: tuple[int, int], value: str) -> None:
    assert refusal(**{name: value}) == f"{name}={value!r}: must be a whole number from {limits[0]} to {limits[1]}"


@pytest.mark.parametrize(("name", "limits"), NUMBERS.items(), ids=NUMBERS)
def test_a_number_out_of_range_is_refused_by_name_and_value(name: str, limits: tuple[int, int]) -> None:
    least, most = limits
    for value in (least - 1, most + 1):
        assert refusal(**{name: str(value)}) == f"{name}='{value}': must be a whole number from {least} to {most}"


@pytest.mark.parametrize("value", ["1", "2", "2.5", "-3", "03", "10000", "ten"])
def test_a_watchdog_without_patience_is_refused(value: str) -> None:
    expected = f"RECO_WATCHDOG_SECONDS={value!r}: must be 0, or a whole number from 3 to 9999"
    assert refusal(RECO_WATCHDOG_SECONDS=value) == expected


def test_the_default_k_may_not_exceed_the_greatest() -> None:
    assert refusal(RECO_MAX_K="5", RECO_DEFAULT_K="6") == "RECO_DEFAULT_K='6': must be a whole number from 1 to 5"


def test_a_greatest_k_below_ten_lowers_the_default() -> None:
    assert read_settings({"RECO_MAX_K": "5"}).limits == Limits(default_k=5, max_k=5)


@pytest.mark.parametrize("value", ["loud", "10", "notset", "Loud"])
def test_an_unknown_log_level_is_refused_by_name_and_value(value: str) -> None:
    expected = f"RECO_LOG_LEVEL={value!r}: must be debug, info, warning, error or critical"
    assert refusal(RECO_LOG_LEVEL=value) == expected


@pytest.mark.parametrize("value", ["debug", "INFO", "Warning", "error", "critical"])
def test_log_levels_are_known_in_any_case(value: str) -> None:
    assert read_settings({"RECO_LOG_LEVEL": value}).log_level == value.upper()


@pytest.mark.parametrize(
    "value", ["soon", " ", "-1", "-0.1", "nan", "inf", "86401", "9" * 5000], ids=lambda value: value[:5]
)
def test_reload_seconds_are_a_number(value: str) -> None:
    expected = f"RECO_RELOAD_SECONDS={value!r}: must be a number of seconds from 0 to 86400"
    assert refusal(RECO_RELOAD_SECONDS=value) == expected


@pytest.mark.parametrize("value", ["a,,b", ",a", "a, ,b"])
def test_an_empty_key_is_refused(value: str) -> None:
    assert refusal(RECO_API_KEYS=value) == "RECO_API_KEYS: holds an empty key"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("RECO_API_KEY", "RECO_API_KEYS"),
        ("RECO_WORKER_COUNT", "RECO_WORKERS"),
        ("RECO_MAX_BODY_BYTES", "RECO_MAX_BODY_MB"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name: str, nearest: str) -> None:
    assert refusal(**{name: "secret"}) == f"{name}: there is no such setting; the nearest is {nearest}"


@pytest.mark.parametrize(
    "name",
    [
        "RECO_SERVICE_HOST",
        "RECO_SERVICE_PORT",
        "RECO_PORT_5000_TCP",
        "RECO_MENU_SERVICE_HOST",
        "RECO_MENU_SERVICE_PORT",
        "RECO_MENU_SERVICE_PORT_HTTP",
        "RECO_MENU_2_PORT",
        "RECO_MENU_PORT_80_TCP",
        "RECO_MENU_PORT_80_TCP_PROTO",
        "RECO_MENU_PORT_80_TCP_PORT",
        "RECO_MENU_PORT_80_TCP_ADDR",
    ],
)
def test_what_kubernetes_injects_for_a_service_is_no_unknown_name(name: str) -> None:
    assert read_settings({name: "tcp://10.0.0.1:80", "HOME": "/", "RECOVERY": "1"}) == DEFAULTS


def test_the_port_that_kubernetes_injects_for_a_service_named_reco_is_explained() -> None:
    assert refusal(RECO_PORT="tcp://10.0.0.1:5000") == (
        "RECO_PORT='tcp://10.0.0.1:5000': must be a whole number from 0 to 65535; Kubernetes sets it for a Service"
        " named reco, unless enableServiceLinks is false"
    )


def test_overrides_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECO_ARTIFACTS", "theirs")
    monkeypatch.setenv("RECO_PORT", "1")
    environment = environment_with({"RECO_ARTIFACTS": "ours", "RECO_PORT": None})
    assert (environment["RECO_ARTIFACTS"], environment["RECO_PORT"]) == ("ours", "1")


def test_a_worker_gets_the_settings_whole() -> None:
    read = read_settings({"RECO_API_KEYS": "a", "RECO_ENGINE": "milvus", "RECO_MILVUS_URI": "menu.db"})
    assert pickle.loads(pickle.dumps(read)) == read
    assert "a" in read.api_keys
    assert "api_keys" not in repr(read)


def test_the_readme_lists_every_setting_with_its_default_and_sentence() -> None:
    text = (Path(__file__).parents[3] / "README.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `RECO_")]
    expected = [[f"`{setting.name}`", str(setting.default) or "none", setting.sentence] for setting in SCHEMA]
    assert [[name, default.strip("`"), sentence] for name, default, sentence in rows] == expected


def test_only_the_user_of_an_address_is_left_out_of_what_is_shown() -> None:
    shown = {
        setting.name: setting.show({"RECO_ARTIFACTS": "/data/at@x", "RECO_MILVUS_URI": "http://ann:pass@milvus:1"})
        for setting in SCHEMA
    }
    assert (shown["RECO_ARTIFACTS"], shown["RECO_MILVUS_URI"]) == ("/data/at@x", "milvus:1")
