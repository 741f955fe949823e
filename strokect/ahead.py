"""Results of threads in the order of what they are made of, with a bounded number of them in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """Yield `function` of each item, in order; at most `ahead` results are made before they are asked for.

    For functions that release the interpreter's lock where their time goes. The first error of one is raised in its place, and
    what was not begun then is not begun any more.
    """
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            while pending and (len(pending) >= ahead or pending[0].done()):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
