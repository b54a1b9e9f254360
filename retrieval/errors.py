"""Errors of catalogues and builds; every message names the file, row or option at fault."""


class RetrievalError(Exception):
    """Base of all errors that a person can act on."""


class BadRows(RetrievalError):
    """A data file cannot be read as rows."""


class BadCatalogue(RetrievalError):
    """The product file cannot be read, or holds rows that are not products."""


class BadQueries(RetrievalError):
    """The users file cannot be read, or does not fit the catalogue."""


class BadLabel(RetrievalError):
    """The embedding model's label does not fit into a header."""


class BadIndexKind(RetrievalError):
    """The requested index cannot be built for this catalogue."""


class BadArtifact(RetrievalError):
    """A build on disk is missing, damaged, or not what its manifest says."""


class Incomparable(RetrievalError):
    """Two builds have too little in common to be compared."""


class LowRecall(RetrievalError):
    """The index finds fewer of the exact matches than the target."""
