"""API keys: which routes need one, and whether a request brings one."""

import hmac

from service.errors import Unauthorized
from service.http.openapi import open_routes
from service.settings import Settings


class Access:
    """Checks API keys. Health stays open, and so do the pages, which have no data and let people enter a key."""

    def __init__(self, settings: Settings):
        self._keys = [key.encode() for key in settings.api_keys]
        self._open_paths = open_routes(settings)

    def check(self, path: str, authorization: str, x_api_key: str) -> None:
        """Raise Unauthorized unless the path is open or one of the two headers holds a key."""
        if not self._keys or path in self._open_paths:
            return
        scheme, _, token = authorization.partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else x_api_key
        if not given:
            raise Unauthorized("an API key is needed, as Authorization: Bearer KEY or X-API-Key: KEY")
        # Every key is compared, so that the time taken does not tell which one came close.
        matches = [hmac.compare_digest(given.encode(), key) for key in self._keys]
        if not any(matches):
            raise Unauthorized("the API key is not one of those that this service takes")
