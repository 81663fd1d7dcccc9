"""One rank: whether gloo's average is a sum, before and after the cure."""

import json

import torch
import torch.distributed as dist

from maws_composer.parallel.gloo import average_correctly, averages_are_sums
from maws_composer.parallel.leave import leave_process_group

dist.init_process_group("gloo")
before = averages_are_sums()
average_correctly()
averaged = torch.empty(1)
dist.reduce_scatter_tensor(averaged, torch.full((2,), 3.0 * (1 + dist.get_rank())), op=dist.ReduceOp.AVG)
reduced = torch.tensor([1.0 + dist.get_rank()])
dist.all_reduce(reduced, op=dist.ReduceOp.AVG)
summed = torch.tensor([1.0 + dist.get_rank()])
dist.all_reduce(summed)
print(json.dumps({"before": before, "after": [averaged.item(), reduced.item(), summed.item()]}))
leave_process_group()
