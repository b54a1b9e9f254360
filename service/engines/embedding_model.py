"""The label of the embedding model that made the vectors of what an engine serves."""

from service.errors import BadSetting


def check_label(label: str | None, is_required: bool) -> None:
    """Raise BadSetting where requests must name a build's embedding model, and it has no label of one."""
    if is_required and label is None:
        text = "the build has no embedding model; `python -m index_builder --embedding-model` gives it one"
        raise BadSetting(f"RECO_REQUIRE_EMBEDDING_MODEL=1: {text}")


def header_text(label: str | None) -> str | None:
    """Return a label as a header can carry it: earlier versions published any."""
    return label and "".join(
        each if each.isascii() and each.isprintable() else each.encode("unicode_escape").decode()
        for each in label.strip()
    )
