"""What builder and service share: the format of a build, and the search in it, which `open_build` gives to Python."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrieval.artifact.local.recommender import LocalRecommender

VERSION = "0.1.0"  # of the code; the distribution's is read from here


def open_build(artifacts: str | Path, build_id: str | None = None) -> "LocalRecommender":
    """Verify and open a build of an artifacts root, the current one by default, to recommend its products in Python.

    Raises BadArtifact naming the file at fault.
    """
    from retrieval.artifact.local.recommender import (
        open_local,  # Whoever imports a part of this package pays for that part.
    )

    return open_local(Path(artifacts), build_id)
