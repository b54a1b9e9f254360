"""What a valid question about products is."""

from marshmallow import EXCLUDE, Schema, fields

from service.http.bodies import read_json
from service.http.lookups import Likes, Places, Prefix
from service.http.schemas import Count, Ids, OrderedIds, Text, Vector, load
from service.settings import Limits

_DEFAULT_COMPLETIONS = 10


class LookupReader:
    """Reads questions from request bodies and query strings. Raises BadBody, or BadRequest with every fault."""

    def __init__(self, dimension: int, limits: Limits):
        most = limits.max_completions
        prefix: dict[str, fields.Field] = {
            "prefix": Text(required=True),
            "limit": Count(most, load_default=min(_DEFAULT_COMPLETIONS, most)),
        }
        likes: dict[str, fields.Field] = {
            "ids": OrderedIds(1, limits.max_ids, required=True),
            "k": Count(limits.max_k, load_default=limits.default_k),
            "exclude": Ids(load_default=frozenset),
        }
        places: dict[str, fields.Field] = {
            "ids": OrderedIds(0, limits.max_ids, load_default=()),
            "vector": Vector(dimension, load_default=None),
            "likes": OrderedIds(0, limits.max_ids, load_default=()),
        }
        self._prefix, self._likes, self._places = (
            Schema.from_dict(shape, name=name)(unknown=EXCLUDE)
            for name, shape in (("Prefix", prefix), ("Likes", likes), ("Places", places))
        )

    def read_prefix(self, arguments: dict[str, str]) -> Prefix:
        """The question of a query string, whose values are texts."""
        limit = arguments.get("limit", "")
        number = {"limit": int(limit)} if limit.isascii() and limit.isdigit() and len(limit) < 19 else {}
        return Prefix(**load(self._prefix, {**arguments, **number}, "a query"))

    def read_likes(self, body: bytes) -> Likes:
        return Likes(**load(self._likes, read_json(body), "the body"))

    def read_places(self, body: bytes) -> Places:
        return Places(**load(self._places, read_json(body), "the body"))
