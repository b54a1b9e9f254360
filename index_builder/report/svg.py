"""A chart as SVG: two axes with plain ticks, and marks placed by the values they stand for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Protocol

WIDTH, HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 24, 52
_MIN_TICKS, _MAX_TICKS, _ROUND, _SLACK = 3, 6, (1, 2, 5), 1e-9


class Scale(Protocol):
    """Where values lie along an axis."""

    @property
    def label(self) -> str: ...

    def place(self, value: float) -> float:
        """Return where a value lies, from 0 to 1; values outside lie at the ends."""

    def ticks(self) -> list[tuple[float, str]]:
        """Return the values to write at the axis, and how."""


@dataclass(frozen=True)
class Linear:
    """A scale of equal steps."""

    label: str
    low: float
    high: float

    def place(self, value: float) -> float:
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def ticks(self) -> list[tuple[float, str]]:
        ten = 10.0 ** math.floor(math.log10((self.high - self.low) / _MAX_TICKS))
        steps = (each * ten for each in (*_ROUND, 10, 20))
        return next(ticks for ticks in map(self._multiples, steps) if len(ticks) <= _MAX_TICKS)

    def _multiples(self, step: float) -> list[tuple[float, str]]:
        numbers = range(math.ceil(self.low / step - _SLACK), math.floor(self.high / step + _SLACK) + 1)
        return [(number * step, _plain(number * step)) for number in numbers]


@dataclass(frozen=True)
class Logarithmic:
    """A scale of equal factors, from a value above 0."""

    label: str
    low: float
    high: float

    def place(self, value: float) -> float:
        return Linear("", math.log(self.low), math.log(self.high)).place(math.log(max(value, self.low)))

    def ticks(self) -> list[tuple[float, str]]:
        tens = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in (_ROUND, _ROUND[:1]):
            values = [step * 10.0**ten for ten in tens for step in steps if self.low <= step * 10.0**ten <= self.high]
            if len(values) <= _MAX_TICKS:
                break
        if len(values) < _MIN_TICKS:  # Values so near to each other are read as easily by equal steps.
            return Linear(self.label, self.low, self.high).ticks()
        return [(value, _plain(value)) for value in values]


@dataclass(frozen=True)
class Names:
    """A scale of names, of which number i lies at i."""

    label: str
    names: Sequence[str]

    def place(self, value: float) -> float:
        return (value + 0.5) / len(self.names)

    def ticks(self) -> list[tuple[float, str]]:
        return list(enumerate(self.names))


@dataclass
class Chart:
    """A chart under a title; what is drawn later lies above what was drawn before."""

    title: str
    x: Scale
    y: Scale
    _marks: list[str] = field(default_factory=list)

    def line(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """Draw a line through points (x, y); `style` is a class of the page."""
        places = " ".join(f"{self._across(x):.1f},{self._down(y):.1f}" for x, y in points)
        self._marks.append(f'<polyline class="{style}" points="{places}"/>')

    def level(self, y: float, style: str, label: str) -> None:
        """Draw a line across the chart, with a label above it."""
        at = self._down(y)
        self._marks.append(f'<path class="{style}" d="M{_LEFT} {at:.1f}H{WIDTH - _RIGHT}"/>')
        self._marks.append(_text(_LEFT + 6, at - 6, label, "start"))

    def dot(self, x: float, y: float, style: str, tip: str, radius: float = 4) -> None:
        """Draw a point that says what it is when pointed at."""
        at = f'cx="{self._across(x):.1f}" cy="{self._down(y):.1f}" r="{radius}"'
        self._marks.append(f'<circle class="{style}" {at}><title>{escape(tip)}</title></circle>')

    def bar(self, x_from: float, x_to: float, y: float, style: str, tip: str) -> None:
        """Draw a bar from the bottom of the chart up to y."""
        left, top = self._across(x_from), self._down(y)
        size = f'width="{max(self._across(x_to) - left - 1, 0.5):.1f}" height="{HEIGHT - _BOTTOM - top:.1f}"'
        at = f'x="{left:.1f}" y="{top:.1f}"'
        self._marks.append(f'<rect class="{style}" {at} {size}><title>{escape(tip)}</title></rect>')

    def __str__(self) -> str:
        title = escape(self.title)
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}"><title>{title}</title>'
            f"{self._axes()}{''.join(self._marks)}</svg>"
        )

    def _axes(self) -> str:
        bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        parts = [f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>']
        for value, text in self.x.ticks():
            at = self._across(value)
            parts += [f'<path class="axis" d="M{at:.1f} {bottom}v5"/>', _text(at, bottom + 20, text, "middle")]
        for value, text in self.y.ticks():
            at = self._down(value)
            parts += [f'<path class="grid" d="M{_LEFT} {at:.1f}H{right}"/>', _text(_LEFT - 8, at + 4, text, "end")]
        parts.append(_text((_LEFT + right) / 2, HEIGHT - 10, self.x.label, "middle"))
        parts.append(_text(_LEFT - 8, _TOP - 10, self.y.label, "start"))
        return "".join(parts)

    def _across(self, x: float) -> float:
        return _LEFT + self.x.place(x) * (WIDTH - _LEFT - _RIGHT)

    def _down(self, y: float) -> float:
        return HEIGHT - _BOTTOM - self.y.place(y) * (HEIGHT - _TOP - _BOTTOM)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _plain(value: float) -> str:
    """Return a number as a person writes it, without powers of ten where it needs none."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 10):.6g}"
