"""Settings of the engine on Milvus, and what it changes of the others."""

import pytest

from service.errors import BadSetting
from service.settings import MilvusSettings, read_settings, schema

MILVUS = {"RECO_ENGINE": "milvus", "RECO_MILVUS_URI": "http://milvus:19530"}


@pytest.fixture(autouse=True)
def three_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "available_cores", lambda: 3)


def refusal(**environment: str) -> str:
    with pytest.raises(BadSetting) as error:
        read_settings({**MILVUS, **environment})
    return str(error.value)


@pytest.mark.parametrize("engine", ["", "faiss"])
def test_the_embedded_engine_is_the_default(engine: str) -> None:
    assert read_settings({**MILVUS, "RECO_ENGINE": engine}).milvus is None


@pytest.mark.parametrize("engine", ["Milvus", "MILVUS", "annoy", " "])
def test_an_unknown_engine_is_refused_by_name_and_value(engine: str) -> None:
    assert refusal(RECO_ENGINE=engine) == f"RECO_ENGINE={engine!r}: must be faiss or milvus"


def test_milvus_has_defaults_but_for_its_uri() -> None:
    read = read_settings(MILVUS)
    assert read.milvus == MilvusSettings("http://milvus:19530", token="", alias="reco", timeout=2.0)
    assert (read.workers, read.threads, read.limits.max_k) == (3, 16, 1000)


def test_every_variable_sets_its_own_setting() -> None:
    values = {"RECO_MILVUS_TOKEN": "root:secret", "RECO_MILVUS_ALIAS": "menu_2", "RECO_MILVUS_TIMEOUT": "0.5"}
    read = read_settings({**MILVUS, **values, "RECO_THREADS": "5"})
    assert read.milvus == MilvusSettings("http://milvus:19530", token="root:secret", alias="menu_2", timeout=0.5)
    assert read.threads == 5


@pytest.mark.parametrize(
    "uri", ["https://user:pw@host:19530/db", "tcp://10.0.0.1:19530", "unix:/run/milvus.sock", "./menu.db"]
)
def test_all_forms_of_a_uri_are_taken(uri: str) -> None:
    milvus = read_settings({**MILVUS, "RECO_MILVUS_URI": uri}).milvus
    assert milvus is not None
    assert milvus.uri == uri


@pytest.mark.parametrize("uri", ["", "milvus", "milvus:19530", "http://", "http://a b", "ftp://milvus"])
def test_a_bad_uri_is_refused_by_name_and_value(uri: str) -> None:
    expected = f"RECO_MILVUS_URI={uri!r}: must be like http://milvus:19530, or a file ending in .db"
    assert refusal(RECO_MILVUS_URI=uri) == expected


def test_a_refused_uri_does_not_show_the_password() -> None:
    assert refusal(RECO_MILVUS_URI="ftp://root:secret@milvus").startswith("RECO_MILVUS_URI='milvus': ")


def test_the_token_is_not_shown() -> None:
    assert "secret" not in repr(read_settings({**MILVUS, "RECO_MILVUS_TOKEN": "root:secret"}))


@pytest.mark.parametrize("alias", ["2menu", "menu-2", "menü", "a" * 101, "menu 2"])
def test_a_bad_alias_is_refused_by_name_and_value(alias: str) -> None:
    expected = f"RECO_MILVUS_ALIAS={alias!r}: must be at most 100 letters, digits and underscores, no digit first"
    assert refusal(RECO_MILVUS_ALIAS=alias) == expected


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "inf", "3601", "1e-9"])
def test_a_bad_timeout_is_refused_by_name_and_value(seconds: str) -> None:
    expected = f"RECO_MILVUS_TIMEOUT={seconds!r}: must be a number of seconds from 0.01 to 3600"
    assert refusal(RECO_MILVUS_TIMEOUT=seconds) == expected


def test_the_greatest_k_is_what_milvus_finds_at_once() -> None:
    assert read_settings({**MILVUS, "RECO_MAX_K": "16384"}).limits.max_k == 16384
    assert refusal(RECO_MAX_K="16385") == "RECO_MAX_K='16385': must be a whole number from 1 to 16384"


def test_a_file_is_served_by_one_worker_alone() -> None:
    local = {**MILVUS, "RECO_MILVUS_URI": "menu.db"}
    assert read_settings(local).workers == 1
    expected = "RECO_WORKERS='2': must be 1 where RECO_MILVUS_URI is a file, which only one may open"
    assert refusal(RECO_MILVUS_URI="menu.db", RECO_WORKERS="2") == expected
