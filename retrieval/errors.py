"""Errors of catalogues and builds; every message names the file, row or option at fault."""


class IndexBuilderError(Exception):
    """Base of all errors that a person can act on."""


class BadRows(IndexBuilderError):
    """A data file cannot be read as rows."""


class BadCatalogue(IndexBuilderError):
    """The product file cannot be read, or holds rows that are not products."""


class BadQueries(IndexBuilderError):
    """The users file cannot be read, or does not fit the catalogue."""


class BadIndexKind(IndexBuilderError):
    """The requested index cannot be built for this catalogue."""


class BadArtifact(IndexBuilderError):
    """A build on disk is missing, damaged, or not what its manifest says."""


class LowRecall(IndexBuilderError):
    """The index finds fewer of the exact matches than the target."""
