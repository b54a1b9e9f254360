"""Reads settings from the environment, and refuses those that it does not know."""

import difflib
import os
import re
from collections.abc import Mapping
from typing import Any

from service.errors import BadSetting
from service.settings.rules import is_milvus
from service.settings.schema import ENGINE, SCHEMA, Limits, MilvusSettings, Settings
from service.settings.setting import Environment, settings_of

# What Kubernetes injects into containers for a Service whose name is reco or begins with reco-.
_KUBERNETES_NAMES = re.compile(
    r"RECO(_[A-Z0-9_]+)?_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


def environment_with(overrides: Mapping[str, str | None]) -> dict[str, str]:
    """Return the process's environment, with the overrides that are not empty."""
    return {**os.environ, **{name: text for name, text in overrides.items() if text}}


def read_settings(environment: Environment) -> Settings:
    """Read and check all settings. Raises BadSetting, naming the variable, and its value unless that is secret."""
    _refuse_unknown(environment)
    ENGINE.read(environment)
    limits, milvus = _read(Limits, environment), _read(MilvusSettings, environment)
    return _read(Settings, environment, limits=limits, milvus=milvus if is_milvus(environment) else None)


def read_milvus(environment: Environment) -> MilvusSettings:
    """Read the settings of Milvus, whatever the engine is. Raises BadSetting."""
    return _read(MilvusSettings, {**environment, "RECO_ENGINE": "milvus"})


def _read(kind: type, environment: Environment, **others: Any) -> Any:
    return kind(**{name: setting.read(environment) for name, setting in settings_of(kind).items()}, **others)


def _refuse_unknown(environment: Environment) -> None:
    known = [setting.name for setting in SCHEMA]
    for name in sorted(environment):
        if name.startswith("RECO_") and name not in known and not _KUBERNETES_NAMES.fullmatch(name):
            [nearest] = difflib.get_close_matches(name, known, 1, cutoff=0)
            raise BadSetting(f"{name}: there is no such setting; the nearest is {nearest}")
