"""Admission: no more than so many compute, no more than so many wait, and a slot is as long taken as its work goes on."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from strokect.admission import Admission, Slot
from strokect.http import HttpError

SOON = 5.0


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 30))  # type: ignore[arg-type]


def in_time() -> float:
    return time.monotonic() + SOON


async def refusal(admission: Admission, deadline: float) -> HttpError:
    with pytest.raises(HttpError) as caught:
        await admission.enter(deadline)
    return caught.value


def test_the_third_waits_and_the_fourth_is_told_to_come_back() -> None:
    async def work() -> None:
        admission = Admission(computing=2, queue=1)
        first, _ = await admission.enter(in_time()), await admission.enter(in_time())
        third = asyncio.create_task(admission.enter(in_time()))
        await asyncio.sleep(0.01)
        assert not third.done() and admission.full()
        fourth = await refusal(admission, in_time())
        assert fourth.status == 429 and int(fourth.headers["Retry-After"]) >= 1
        first.leave()
        await asyncio.wait_for(third, 1)
        assert not admission.full() and admission.busy == 2

    run(work)


def test_waiting_ends_with_504_at_the_deadline_and_leaves_the_queue() -> None:
    async def work() -> None:
        admission = Admission(computing=1, queue=1)
        slot = await admission.enter(in_time())
        assert (await refusal(admission, time.monotonic() + 0.02)).status == 504
        assert not admission.waiting
        slot.leave()
        assert admission.busy == 0

    run(work)


def test_turns_come_in_the_order_of_arrival() -> None:
    async def work() -> None:
        admission, order = Admission(computing=1, queue=5), list[int]()

        async def request(number: int) -> None:
            slot = await admission.enter(in_time())
            order.append(number)
            slot.leave()

        slot = await admission.enter(in_time())
        tasks = []
        for number in range(5):
            tasks.append(asyncio.create_task(request(number)))
            await asyncio.sleep(0)
        slot.leave()
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3, 4] and admission.busy == 0

    run(work)


def test_a_slot_stays_taken_while_its_thread_works_though_the_request_is_gone() -> None:
    async def work() -> None:
        admission, go_on, begun = Admission(computing=1, queue=0), threading.Event(), threading.Event()
        slot = await admission.enter(in_time())

        def compute() -> None:
            with slot.work():
                begun.set()
                go_on.wait(SOON)

        thread = threading.Thread(target=compute)
        thread.start()
        await asyncio.to_thread(begun.wait, SOON)
        slot.leave()  # the client hung up
        assert admission.busy == 1 and (await refusal(admission, in_time())).status == 429
        go_on.set()
        await asyncio.to_thread(thread.join)
        assert admission.busy == 0
        slot.leave()
        assert admission.busy == 0, "given back twice"

    run(work)


def test_work_that_comes_after_its_request_was_given_up_is_not_begun() -> None:
    async def work() -> None:
        admission = Admission(computing=1, queue=0)
        slot = await admission.enter(in_time())
        slot.leave()
        with pytest.raises(HttpError) as caught, slot.work():
            raise AssertionError("begun")
        assert caught.value.status == 503 and admission.busy == 0

    run(work)


def test_a_failing_computation_gives_its_slot_back_and_is_timed() -> None:
    async def work() -> None:
        admission = Admission(computing=1, queue=0)
        for _ in range(3):
            slot = await admission.enter(in_time())
            with pytest.raises(ValueError, match="no"), slot.work():
                time.sleep(0.01)
                raise ValueError("no")
        assert admission.busy == 0 and admission.mean_s >= 0.01

    run(work)


def test_who_comes_back_is_told_how_long_what_is_ahead_takes() -> None:
    async def work() -> None:
        admission = Admission(computing=1, queue=2, mean_s=7.0)
        await admission.enter(in_time())
        waiting = [asyncio.create_task(admission.enter(in_time())) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert (await refusal(admission, in_time())).headers["Retry-After"] == "21"  # two that wait, and oneself: 3 · 7 s
        for task in waiting:
            task.cancel()

    run(work)


def test_many_requests_many_threads_and_clients_that_hang_up_lose_no_slot() -> None:
    async def work() -> None:
        admission, at_once, most = Admission(computing=3, queue=300), 0, 0
        guard = threading.Lock()

        def compute(slot: Slot) -> None:
            nonlocal at_once, most
            with slot.work():
                with guard:
                    at_once += 1
                    most = max(most, at_once)
                time.sleep(0.002)
                with guard:
                    at_once -= 1

        async def request(number: int) -> int:
            try:
                slot = await admission.enter(time.monotonic() + (0.003 if number % 3 == 0 else SOON))
            except HttpError as error:
                return error.status
            try:
                if number % 5:
                    await asyncio.to_thread(compute, slot)
            finally:
                slot.leave()
            return 200

        tasks = [asyncio.create_task(request(number)) for number in range(300)]
        for number, task in enumerate(tasks):
            if number % 7 == 0:
                asyncio.get_running_loop().call_later(0.001 * (number % 10), task.cancel)
            if number % 20 == 19:
                await asyncio.sleep(0.03)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {result for n, result in enumerate(results) if n % 3 and n % 7} == {200}
        assert {result for result in results if isinstance(result, int)} <= {200, 504}
        await asyncio.sleep(0.1)
        assert admission.busy == 0 and not admission.waiting and 1 < most <= 3

    run(work)
