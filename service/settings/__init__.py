"""The service's settings: a schema of `RECO_*` variables, read once into frozen objects."""

from service.settings.reading import environment_with, read_milvus, read_settings
from service.settings.rules import MILVUS_MAX_MATCHES
from service.settings.schema import MILVUS_INDEXES, SCHEMA, Limits, MilvusSettings, Settings

__all__ = [
    "MILVUS_INDEXES",
    "MILVUS_MAX_MATCHES",
    "SCHEMA",
    "Limits",
    "MilvusSettings",
    "Settings",
    "environment_with",
    "read_milvus",
    "read_settings",
]
