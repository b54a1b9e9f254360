"""What one setting demands of another."""

from typing import Any

import orjson

from service.settings.parsers import matching, number
from service.settings.setting import Environment

MILVUS_MAX_MATCHES = 16_384  # Milvus finds no more in one search.


def is_milvus(environment: Environment) -> bool:
    return environment.get("RECO_ENGINE") == "milvus"


def is_milvus_file(environment: Environment) -> bool:
    return is_milvus(environment) and environment.get("RECO_MILVUS_URI", "").endswith(".db")


def configured_max_k(environment: Environment) -> int:
    return int(environment.get("RECO_MAX_K") or 1000)


def max_matches(environment: Environment) -> int:
    return MILVUS_MAX_MATCHES if is_milvus(environment) else 1_000_000


def parse_workers(text: str, environment: Environment) -> Any:
    count = number(1, 1024)(text, environment)
    if count > 1 and is_milvus_file(environment):
        raise ValueError("must be 1 where RECO_MILVUS_URI is a file, which only one may open")
    return count


def parse_milvus_uri(text: str, environment: Environment) -> Any:
    if not text and not is_milvus(environment):
        return ""
    kinds = r"(https?|tcp)://\S+|unix:\S+|.+\.db"
    return matching(kinds, "like http://milvus:19530, or a file ending in .db")(text, environment)


def parse_filter(text: str, _environment: Environment) -> str:
    """Return the text of a JSON object; whether it fits the fields of a build is seen when that is opened."""
    try:
        fits = not text or isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"must be a filter as JSON: {error}") from error
    if not fits:
        raise ValueError('must be a filter as JSON, such as {"stock": true}')
    return text
