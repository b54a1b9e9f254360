"""Users who come with a build, for people to try it with."""

from collections.abc import Generator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from retrieval.errors import BadArtifact
from retrieval.records.rows import read_rows

FILE = "sample_users.json"
_MAX_USERS = 12


def write_sample_users(directory: Path, path: Path | None) -> None:
    """Write the first users with a name of a users file that has been read before; none where there is no file.

    Their `likes` are kept where they are texts: they say what to expect.
    """
    with closing(_named_users(path)) as named:
        users = list(islice(named, _MAX_USERS))
    (directory / FILE).write_bytes(orjson.dumps(users, option=orjson.OPT_SERIALIZE_NUMPY))


def open_sample_users(directory: Path) -> list[dict[str, Any]]:
    """Read the sample users of a build: `name`, `likes` and `vector` of each. Raises BadArtifact."""
    path = directory / FILE
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise BadArtifact(f"{path}: not readable sample users ({error})") from error


def _named_users(path: Path | None) -> Generator[dict[str, Any], None, None]:
    for _, row in read_rows(path) if path else ():
        name, likes = row.get("name"), row.get("likes")
        if _is_text(name) and name:
            are_texts = isinstance(likes, list) and all(map(_is_text, likes))
            yield {"name": name, "likes": likes if are_texts else [], "vector": np.asarray(row["vector"], np.float64)}


def _is_text(value: Any) -> bool:
    """Tell whether a value is a string without a lone surrogate, which UTF-8 cannot carry."""
    return isinstance(value, str) and value == value.encode(errors="ignore").decode()
