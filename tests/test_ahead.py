"""Threads that work ahead: the order stays, no more is kept than asked for, an error comes in its place."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from strokect.ahead import map_ahead


def test_results_come_in_the_order_of_the_items_whoever_is_first() -> None:
    def slow_at_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0.0)
        return number**2

    assert list(map_ahead(slow_at_first, range(20), ahead=4)) == [number**2 for number in range(20)]
    assert list(map_ahead(slow_at_first, [], ahead=4)) == []


def test_no_more_are_begun_than_may_lie_in_memory() -> None:
    begun: list[int] = []
    release = threading.Event()

    def wait_at_first(number: int) -> int:
        begun.append(number)
        if number == 0:
            release.wait(10)
        return number

    results = map_ahead(wait_at_first, range(100), ahead=5)
    with ThreadPoolExecutor(1) as consumer:
        first = consumer.submit(next, results)
        time.sleep(0.2)
        assert not first.done() and len(begun) <= 5
        release.set()
        assert first.result(10) == 0
    results.close()
    assert len(begun) <= 10


def test_an_error_is_raised_in_its_place_and_ends_the_work() -> None:
    begun: list[int] = []

    def fail_at_three(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise ValueError("the fourth")
        return number

    results = map_ahead(fail_at_three, range(1000), ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the fourth"):
        next(results)
    assert len(begun) < 20
