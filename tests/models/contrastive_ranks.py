"""One rank of tests/models/test_contrastive.py: its rows of the global batch, and the mean of everybody's gradients."""

import json
import sys

import torch
import torch.distributed as dist

from maws_composer.models.clip import Embeddings
from maws_composer.models.contrastive import LOSSES, global_loss
from maws_composer.parallel.leave import leave_process_group
from tests.models.pairs import make_pairs


def losses_and_gradients(name: str, logits_at_once: int) -> list[list]:
    rank, world_size = dist.get_rank(), dist.get_world_size()
    whole = make_pairs(name, torch.float32)
    own = slice(rank * len(whole.image) // world_size, (rank + 1) * len(whole.image) // world_size)
    leaves = [None if tensor is None else tensor.clone().requires_grad_() for tensor in whole]
    pairs = Embeddings(leaves[0][own], leaves[1][own], *leaves[2:])
    loss = global_loss(pairs, LOSSES[name].of_rows, logits_at_once)
    loss.backward()
    # leaves are shared like parameters: what each rank found for them is averaged, as FSDP does
    results = [loss.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]
    for result in results:
        dist.all_reduce(result)
        result /= world_size
    return [result.tolist() for result in results]


dist.init_process_group("gloo")
print(json.dumps({name: losses_and_gradients(name, json.loads(sys.argv[1])) for name in LOSSES}), flush=True)
leave_process_group()
