"""Work in several processes; parts with one progress bar."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from tqdm import tqdm

from streaming_conversion.parts import PartResult, PartTask, write_part
from streaming_conversion.problems import ConversionError

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")

# forkserver: imports once, and unlike fork it copies no threads or storage clients
_CONTEXT = multiprocessing.get_context("forkserver")


class Progress:
    """Pictures that are done, as a bar.

    Args:
        total: pictures of the whole conversion.
        before: those of parts that were finished before.
        what: goes before the bar.
        delay: seconds before the bar is shown; what takes less needs none.
    """

    def __init__(self, total: int, before: int, what: str | None = None, delay: float = 0) -> None:
        self._before = before
        # a terminal wants a lively bar, a log file a line now and then
        pause = 0.5 if sys.stderr.isatty() else 30
        self._bar = tqdm(
            total=total, initial=before, desc=what, unit=" images", mininterval=pause, smoothing=0.05, delay=delay
        )

    def show(self, done: int) -> None:
        """Show how many this run has done so far."""
        self._bar.update(self._before + done - self._bar.n)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def write_parts(
    tasks: Sequence[PartTask], processes: int, progress: Progress, settle: Callable[[PartTask, PartResult], None]
) -> None:
    """Write parts, in this process or in `processes` others; `settle` is called in this one for each that is ready.

    Raises:
        ConversionError: see `write_part`.
    """
    if processes == 1 or len(tasks) < 2:
        _write_here(tasks, progress, settle)
    else:
        _write_in_pool(tasks, min(processes, len(tasks)), progress, settle)


def _write_here(tasks: Sequence[PartTask], progress: Progress, settle: Callable[[PartTask, PartResult], None]) -> None:
    count = itertools.count(1)

    def tick() -> None:
        progress.show(next(count))

    for task in tasks:
        settle(task, write_part(task, tick))


def _write_in_pool(
    tasks: Sequence[PartTask], processes: int, progress: Progress, settle: Callable[[PartTask, PartResult], None]
) -> None:
    count = _CONTEXT.Value("q")
    with _workers(processes, count) as pool:
        waiting = {pool.submit(_write_in_worker, task): task for task in tasks}
        while waiting:
            ready, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in ready:
                try:
                    settle(waiting.pop(future), future.result())
                except BrokenProcessPool as error:
                    raise _killed() from error
            progress.show(count.value)


def each(
    function: Callable[[Shared, Item], Result], items: Iterable[Item], processes: int, shared: Shared
) -> Iterator[Result]:
    """`function(shared, item)` for each item, in order, in this process or in `processes` others.

    Args:
        function: of a module's top level.
        items: taken a few ahead of their results.
        processes: how many.
        shared: the same for all items, given to each process once.

    Raises:
        ConversionError: what `function` raises, or a process was killed.
    """
    if processes == 1:
        for item in items:
            yield function(shared, item)
        return
    with _workers(processes, shared) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(_call_in_worker, function, item))
                if len(waiting) > 2 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise _killed() from error


def _killed() -> ConversionError:
    return ConversionError(
        "a process of the conversion was killed, perhaps for want of memory; "
        "the same command goes on, with fewer --processes if it happens again"
    )


@contextmanager
def _workers(processes: int, shared: object) -> Iterator[ProcessPoolExecutor]:
    """On any error end the workers at once: what they were writing is not finished and does not count."""
    _CONTEXT.set_forkserver_preload(["streaming_conversion.parts"])
    alive, held_here = _CONTEXT.Pipe(duplex=False)  # `held_here` closes with this process, however it ends
    with held_here:
        pool = ProcessPoolExecutor(processes, _CONTEXT, _begin_worker, (shared, alive))
        try:
            yield pool
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


_shared: Any = None


def _begin_worker(shared: Any, alive: Connection) -> None:
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the main process decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_main_process, args=(alive,), daemon=True).start()


def _end_with_main_process(alive: Connection) -> None:
    """A conversion that was killed must not go on writing."""
    with suppress(EOFError):
        alive.recv()
    os._exit(1)


def _write_in_worker(task: PartTask) -> PartResult:
    def tick() -> None:
        with _shared.get_lock():
            _shared.value += 1

    return write_part(task, tick)


def _call_in_worker(function: Callable[[Any, Item], Result], item: Item) -> Result:
    return function(_shared, item)
