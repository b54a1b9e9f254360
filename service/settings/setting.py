"""One `RECO_*` variable: its default, what it is for, and how its text is read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from service.errors import BadSetting

Environment = Mapping[str, str]
Parse = Callable[[str, Environment], Any]


def verbatim(text: str, _environment: Environment) -> str:
    return text


@dataclass(frozen=True)
class Setting:
    """A variable: its default, what it is for, and how its text is read.

    `parse` may look at other variables too, and raises ValueError saying what the text must be. `derive` finds the
    default where it depends on those or on the machine.
    """

    name: str
    default: object
    sentence: str
    parse: Parse = verbatim
    derive: Callable[[Environment], object] | None = None
    is_secret: bool = False

    def text(self, environment: Environment) -> str:
        """Return what the variable says, or would say if the default were given; unset and empty are the same."""
        return environment.get(self.name) or str(self.derive(environment) if self.derive else self.default)

    def show(self, environment: Environment) -> str:
        """Return the text as it may be printed: without a secret, and without the user and password of an address."""
        text = self.text(environment)
        if self.is_secret:
            return "set, not shown" if text else ""
        return text.rpartition("@")[2] if self.name.endswith("_URI") else text

    def read(self, environment: Environment) -> Any:
        try:
            return self.parse(self.text(environment), environment)
        except ValueError as error:
            shown = "" if self.is_secret else f"={self.show(environment)!r}"
            raise BadSetting(f"{self.name}{shown}: {error}") from error


def setting(name: str, default: Any, sentence: str, parse: Parse = verbatim, value: Any = None, **options: Any) -> Any:
    """Declare a field with the variable that sets it; `value` is the field's default, otherwise read from `default`."""
    declared = Setting(name, default, sentence, parse, **options)
    value = value or parse(str(default), {})
    return field(default=value, repr=not declared.is_secret, metadata={"setting": declared})


def settings_of(kind: type) -> dict[str, Setting]:
    """Return the settings that a dataclass declares, by field."""
    return {each.name: each.metadata["setting"] for each in fields(kind) if each.metadata}
