"""The embedding model that made the vectors of a build's products, and that users' vectors have to come from."""


def find_mismatch(label: str | None, named: str | None, is_required: bool = False) -> str:
    """Say why vectors of the model that is `named` do not fit a build with this label; nothing where they do.

    A build without a label takes any, and so does a request that names none, unless one `is_required`.
    """
    if named is None:
        return f"must name the embedding model of the vectors; the build's is {label!r}" if is_required else ""
    if label is not None and named != label:
        return f"the vectors are of {named[:100]!r}, and the products' are of {label!r}"
    return ""
