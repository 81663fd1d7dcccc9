"""One rank that trains while something is under way, which fails on the second rank only."""

import json
import time

import torch.distributed as dist

from maws_composer.checkpoints.under_way import UnderWay
from maws_composer.checkpoints.writing import SaveError
from maws_composer.parallel.agree import cpu_group
from maws_composer.parallel.leave import leave_process_group

dist.init_process_group("gloo")
rank = dist.get_rank()


def write() -> None:
    time.sleep(0.3)
    if rank == 1:
        raise SaveError("the disk of rank 1 is full")


def steps_until_raised(under_way: UnderWay) -> tuple[int, str]:
    for step in range(1000):
        time.sleep(0.05 * rank)  # ranks are never at the same place at the same time
        try:
            under_way.look()
        except SaveError as error:
            return step, str(error)
    return -1, ""


under_way = UnderWay(uploader=None, group=cpu_group(timeout=60))
under_way.begin(lambda: time.sleep(0.2 * rank), in_background=True)
under_way.settle()
under_way.begin(write, in_background=True)
step, said = steps_until_raised(under_way)
under_way.settle()  # nothing is under way any more
print(json.dumps({"step": step, "said": said}), flush=True)
leave_process_group()
