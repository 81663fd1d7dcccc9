"""What a loader worker is beside what it loads: a process among those of a rank."""

from __future__ import annotations

import gc
import os
import signal
import threading


def be_a_worker(worker: int) -> None:
    """Collect garbage, whatever the rank has switched off (callbacks.garbage_collection), and leave signals to it.

    But not the rank's: to look at its objects would copy all pages that they lie in, for each worker.

    A scheduler may send its notice to every process; the rank, which then saves, still needs its workers. They end when
    the rank itself sends SIGTERM, as PyTorch and Python do at its exit. Its watchdog asks by a signal of its own where
    they are stuck: see `resilience.stacks`.
    """
    gc.freeze()
    gc.enable()
    for each in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_the_rank, name="signals", daemon=True).start()


def _end_with_the_rank() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
