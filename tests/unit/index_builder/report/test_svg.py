"""Marks lie where their values do, and ticks are round."""

import re

import pytest

from index_builder.report.svg import HEIGHT, WIDTH, Chart, Linear, Logarithmic, Names


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [
        (Linear("", 0.985, 1.0), ["0.985", "0.99", "0.995", "1"]),
        (Linear("", 0, 1234), ["0", "500", "1,000"]),
        (Linear("", -0.3, 0.9), ["-0.2", "0", "0.2", "0.4", "0.6", "0.8"]),
        (Linear("", 0, 6), ["0", "2", "4", "6"]),
        (Linear("", 0, 0.5), ["0", "0.1", "0.2", "0.3", "0.4", "0.5"]),
        (Logarithmic("", 0.15, 3), ["0.2", "0.5", "1", "2"]),
        (Logarithmic("", 0.05, 400), ["0.1", "1", "10", "100"]),
        (Logarithmic("", 0.17, 0.23), ["0.18", "0.2", "0.22"]),
        (Logarithmic("", 0.9, 1.4), ["0.9", "1", "1.1", "1.2", "1.3", "1.4"]),
        (Names("", ["best", "worst"]), ["best", "worst"]),
    ],
)
def test_ticks_are_round_and_within_the_scale(scale: Linear | Logarithmic | Names, ticks: list[str]) -> None:
    assert [text for _, text in scale.ticks()] == ticks
    assert all(0 <= scale.place(value) <= 1 for value, _ in scale.ticks())


def test_values_lie_in_proportion_and_never_outside() -> None:
    assert [Linear("", 2, 4).place(value) for value in (1, 2, 2.5, 4, 5)] == [0, 0, 0.25, 1, 1]
    assert [round(Logarithmic("", 1, 100).place(value), 9) for value in (0, 1, 10, 100)] == [0, 0, 0.5, 1]
    assert [Names("", ["a", "b"]).place(number) for number in (0, 1)] == [0.25, 0.75]


def test_marks_are_drawn_where_their_values_lie() -> None:
    chart = Chart("a <b>", Linear("x", 0, 10), Linear("y", 0, 1))
    chart.dot(5, 0.25, "kind0", "here & now")
    chart.line([(0, 0), (10, 1)], "curve")
    chart.level(0.5, "promise", "promise 0.5")
    chart.bar(5, 10, 0.25, "fill", "a bar")
    left, right, top, bottom = 64, WIDTH - 16, 24, HEIGHT - 52
    middle, quarter = (left + right) / 2, bottom - (bottom - top) / 4
    svg = str(chart)
    assert '<svg viewBox="0 0 480 300" role="img" aria-label="a &lt;b&gt;"><title>a &lt;b&gt;</title>' in svg
    assert f'<circle class="kind0" cx="{middle:.1f}" cy="{quarter:.1f}" r="4"><title>here &amp; now</title>' in svg
    assert f'<polyline class="curve" points="{left:.1f},{bottom:.1f} {right:.1f},{top:.1f}"/>' in svg
    assert f'<path class="promise" d="M{left} {(top + bottom) / 2:.1f}H{right}"/>' in svg
    size = f'width="{right - middle - 1:.1f}" height="{bottom - quarter:.1f}"'
    assert f'<rect class="fill" x="{middle:.1f}" y="{quarter:.1f}" {size}>' in svg
    assert re.findall(r">([^<>]+)</text>", svg)[-3:] == ["x", "y", "promise 0.5"]
