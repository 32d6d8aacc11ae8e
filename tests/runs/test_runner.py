"""The one loop: what is worked on together, and that one bad item costs only itself."""

import pytest

from deepviz.errors import LayerError, ModelError
from deepviz.runs.runner import batches, run


def doubled(seen):
    def work(batch):
        seen.append(list(batch))
        if 3 in batch:
            raise ModelError("three")
        return [2 * one for one in batch]

    return work


def test_a_bad_item_costs_only_itself():
    seen, failed = [], []
    found = run([[1, 2], [3, 4]], doubled(seen), on_error=lambda item, error: failed.append((item, str(error))))
    assert list(found) == [2, 4, 8]
    assert failed == [(3, "three")]
    assert seen == [[1, 2], [3, 4], [3], [4]]


def test_an_item_that_fails_alone_is_not_tried_again():
    seen, failed = [], []
    assert list(run([[3]], doubled(seen), on_error=lambda item, _: failed.append(item))) == []
    assert (seen, failed) == ([[3]], [3])


def test_without_a_taker_the_error_is_raised():
    with pytest.raises(ModelError):
        list(run([[1], [3]], doubled([])))


def test_other_errors_end_the_run():
    def work(batch):
        raise LayerError("no such layer")

    with pytest.raises(LayerError):
        list(run([[1]], work, on_error=lambda *_: None))


def test_results_come_as_they_are_made_and_go_into_every_sink():
    seen, one, other = [], [], []
    found = run([[1], [2]], doubled(seen), sinks=[one.append, other.append])
    assert next(found) == 2
    assert (seen, one, other) == ([[1]], [2], [2])
    assert list(found) == [4]
    assert one == other == [2, 4]


def test_a_result_is_given_once_where_a_sink_fails():
    """An error of a sink is no item's own."""

    def sink(result):
        raise ModelError("full")

    failed = []
    with pytest.raises(ModelError, match="full"):
        list(run([[1]], doubled([]), on_error=lambda *one: failed.append(one), sinks=[sink]))
    assert failed == []


def test_neighbours_that_are_alike_go_together():
    assert list(batches([1, 3, 2, 5, 7, 9], lambda one: one % 2, 2)) == [[1, 3], [2], [5, 7], [9]]
    assert list(batches([], id, 2)) == []
    assert list(batches([1, 1, 1, 2, 2, 2], lambda one: one, lambda one: one)) == [[1], [1], [1], [2, 2], [2]]
