"""Where two ways take the same time is told from ratios of their times, as far as these reach."""

import numpy as np

from benchmarks.filters.crossover import crossing


def test_the_crossing_lies_between_the_ratios_on_either_side_of_one() -> None:
    values = np.array([1.0, 2, 4, 8])
    assert crossing(values, [4, 2, 0.5, 0.25]) == "2.8"  # the square root of 2 x 4
    assert crossing(values, [4, 4, 2, 1]) == "8"


def test_a_crossing_beyond_the_values_is_told_by_the_last_of_them() -> None:
    values = np.array([1.0, 2, 4])
    assert crossing(values, [0.9, 0.5, 0.3]) == "< 1"
    assert crossing(values, [4, 2, 1.1]) == "> 4"
