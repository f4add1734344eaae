"""Order, failures and an early end of reading ahead."""

import threading
import time

import pytest

from psd_depth_ros.replay.player import ReadAhead


def test_items_come_in_order():
    with ReadAhead(range(100), depth=2) as items:
        assert list(items) == list(range(100))


def test_none_is_an_item():
    with ReadAhead([None, 1]) as items:
        assert list(items) == [None, 1]


def test_a_failure_comes_where_it_happened():
    def fail():
        yield 1
        raise ValueError('no second item')

    with ReadAhead(fail()) as items:
        assert next(items) == 1
        with pytest.raises(ValueError, match='no second item'):
            next(items)


def test_leaving_early_ends_the_thread():
    def count():
        number = 0
        while True:
            yield number
            number += 1

    before = threading.active_count()
    with ReadAhead(count()) as items:
        assert next(items) == 0
    assert threading.active_count() == before


def test_it_does_not_run_further_ahead_than_its_depth():
    taken = []
    items = (taken.append(number) or number for number in range(100))
    with ReadAhead(items, depth=2) as ahead:
        next(ahead)
        time.sleep(0.2)
        assert len(taken) <= 4
