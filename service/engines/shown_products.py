"""The filter of `RECO_FILTER`, which holds for every request."""

import orjson

from retrieval.search.filters.language import EVERYTHING, BadFilter, Vocabulary, parse_filter
from retrieval.search.filters.tree import Filter, fields_of
from service.errors import BadSetting


def read_shown(vocabulary: Vocabulary, text: str) -> Filter:
    """Return the filter in a text of JSON, of which an empty one lets all products through. Raises BadSetting."""
    try:
        tree = parse_filter(orjson.loads(text), vocabulary) if text else EVERYTHING
    except BadFilter as error:
        raise BadSetting(f"RECO_FILTER={text!r} does not fit the build: {error}") from error
    if problem := vocabulary.problem_with(fields_of(tree)):
        raise BadSetting(f"RECO_FILTER={text!r}: this engine does not filter by {problem}")
    return tree
