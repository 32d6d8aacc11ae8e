"""Intervals of means, against what is known of the bootstrap."""

import numpy as np
import pytest

from deepviz.metrics.bootstrap import differs, interval


def test_the_interval_of_a_mean_is_that_of_the_normal_law_where_many_images_were_seen():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    low, high = interval(values)
    # the bootstrap's standard error of a mean is the population one over the root of n
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_it_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(2)
    inside = [low <= 0 <= high for low, high in (interval(random.normal(size=40)) for _ in range(300))]
    assert 0.89 < np.mean(inside) < 0.98


def test_two_images_give_no_interval():
    assert np.isnan(interval(np.array([0.1, 0.2]))).all()
    assert not differs(np.array([1.0, 1.0]), np.array([0.0, 0.0]))


def test_a_paired_difference_is_seen_where_the_intervals_overlap():
    random = np.random.default_rng(3)
    of_image = random.normal(0, 1, 30)
    one, other = of_image + 0.1, of_image + random.normal(0, 0.01, 30)
    assert interval(one)[0] < interval(other)[1]
    assert differs(one, other)
    assert not differs(random.normal(size=30), random.normal(size=30))


def test_the_same_values_give_the_same_interval():
    values = np.random.default_rng(4).random(10)
    assert interval(values) == interval(values)
