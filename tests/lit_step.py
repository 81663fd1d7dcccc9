"""One rank of one LiT step on a sharded miniature, as Composer works it off; prints the loss and gradients' norms."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from maws_composer.data.batches import split_batch
from maws_composer.parallel.leave import leave_process_group
from maws_composer.parallel.settings import Speed
from maws_composer.parallel.shard import require_sharded, shard
from maws_composer.stages.gradient_caching import cached_gradients, embed_whole
from tests.test_gradient_caching import BATCH, build_stage, make_batch


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def main(options: dict) -> None:
    dist.init_process_group("gloo")
    rank, share = dist.get_rank(), BATCH // dist.get_world_size()
    size = options.get("microbatch", share)
    with torch.device("meta"):
        stage = build_stage(options["text"], **options["model"])
    speed = Speed(activation_checkpointing=options.get("checkpointing", "none"))
    mesh = shard(stage, speed, "fp32", seed=3, device=torch.device("cpu"))
    require_sharded(stage.train(), mesh)
    autocast = torch.autocast("cpu", torch.bfloat16) if options.get("autocast") else nullcontext()
    batch = {name: values[rank * share : (rank + 1) * share] for name, values in make_batch().items()}
    first = None
    if size < share:
        (caching,) = stage.callbacks()
        with autocast:
            first, batch = embed_whole(stage, batch, size, caching._embed_images)
        batch = {**batch, **cached_gradients(first, stage.of_rows)}
    total, second = torch.zeros(()), []
    for part in split_batch(batch, size):
        with autocast:
            pairs = stage(part)
            loss = stage.loss(pairs, part) * (len(part["valid"]) / share)
        loss.backward()
        total += loss.detach()
        second.append(pairs)
    dist.all_reduce(total)
    same_bits = first is None or all(
        torch.equal(getattr(first, which), torch.cat([getattr(pairs, which) for pairs in second]))
        for which in ("image", "text")
    )
    with torch.no_grad():
        stage.clip.logit_scale.fill_(9.0)
    stage.clip.clamp_scale()
    norms = {name: full(p.grad).norm().item() for name, p in stage.named_parameters() if p.grad is not None}
    clamped = full(stage.clip.logit_scale).item()
    loss = total.item() / dist.get_world_size()
    print(json.dumps({"loss": loss, "norms": norms, "same_bits": same_bits, "clamped": clamped}))
    leave_process_group()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
