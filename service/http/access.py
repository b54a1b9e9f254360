"""API keys: who may be answered."""

import hmac
from collections.abc import Container, Sequence

from flask import request

from service.errors import Unauthorized


def check_key(keys: Sequence[str], open_paths: Container[str]) -> None:
    """Raise Unauthorized where the current request needs a key and has none of them."""
    if request.path in open_paths:
        return
    if not has_key(keys, request.headers.get("Authorization", ""), request.headers.get("X-API-Key", "")):
        raise Unauthorized("an API key is needed, as Authorization: Bearer KEY or X-API-Key: KEY")


def has_key(keys: Sequence[str], authorization: str, x_api_key: str) -> bool:
    """Whether one of two headers holds one of the keys, or none is needed."""
    scheme, _, token = authorization.partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else x_api_key
    # Every key is compared, so that the time taken does not tell which one came close.
    matches = [hmac.compare_digest(given.encode(), key.encode()) for key in keys]
    return not keys or any(matches)
