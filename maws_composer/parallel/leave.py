"""The orderly end of a rank."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch.distributed as dist
from composer.utils import dist as composer_dist

from maws_composer.config.problems import ConfigError, ForeseenError, format_problems
from maws_composer.outages import OutageError
from maws_composer.resilience.notice import let_signals_end


def work_and_leave(config: str, work: Callable[[], None]) -> int:
    """Do a rank's work, say what is wrong with `config` if that comes out, then leave the process group.

    Returns:
        The exit code: 2 after a ConfigError, which has to be the same on every rank of a node; 1 if it is an outage,
        after which the same command may succeed.

    Raises:
        SystemExit: after a ForeseenError, whose message is printed without a traceback; the code is 1.
    """
    code = 0
    try:
        work()
    except ConfigError as error:
        code = 1 if isinstance(error, OutageError) else 2
        if composer_dist.get_local_rank() == 0:
            print(format_problems(config, error.problems), file=sys.stderr, flush=True)
    except ForeseenError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    leave_process_group(code)
    return code


def leave_process_group(code: int = 0) -> None:
    """Wait for all ranks, then take the process group down.

    Without the wait for the others, one run in twelve aborts after it has finished. Without the pause, one in three
    hangs where a collective of Python's tensors came just before: the group's destructor holds the interpreter's lock
    and joins a thread that needs it to free them (torch 2.7, gloo).

    Args:
        code: what this rank will exit with. Where it is not 0, the launcher ends all that still runs and returns the
            code of the first rank, so that all others let it go first.
    """
    if dist.is_initialized():  # an error may have come before that
        dist.barrier()
        time.sleep(0.1)
        dist.destroy_process_group()
    if code and composer_dist.get_local_rank():
        let_signals_end()
        time.sleep(60)
