"""The ranks of a run find each other, or end soon: a node that was refused, or died, before that does not come."""

from __future__ import annotations

import socket
from datetime import timedelta

from composer.devices import Device
from composer.utils import dist
from torch.distributed.rendezvous import rendezvous

from maws_composer.resilience.failure import end_first, is_lost_connection
from maws_composer.resilience.outcome import LOST, tell_failure, tell_launcher


def meet(device: Device, meeting_limit: float, timeout: float) -> None:
    """Set up the process group; where ranks are missing, say how many came, and end.

    Composer's `initialize_dist` waits for others as long as for any collective. So the others are waited for before it,
    at a store which it then shares, as every store of a process at one address is.

    Args:
        device: of this rank.
        meeting_limit: seconds to wait for the others.
        timeout: seconds that a collective may take later.
    """
    try:
        if dist.get_world_size() > 1:
            _until_composer_has_it = next(rendezvous("env://", timeout=timedelta(seconds=meeting_limit)))
        dist.initialize_dist(device, timeout=timeout)
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        text = (
            f"not all of the {dist.get_world_size()} ranks came within {meeting_limit:.0f} s, or one was lost: {error}"
        )
        tell_launcher(LOST, text)
        tell_failure(dist.get_global_rank(), socket.gethostname(), text)
        end_first(text)
