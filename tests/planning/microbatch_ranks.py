"""One rank whose GPU has as much memory as the arguments say: the microbatch that it takes."""

import json
import sys

import torch.distributed as dist

from maws_composer.config.plugins import load_with_ours
from maws_composer.parallel.leave import leave_process_group
from maws_composer.planning import microbatch
from tests.processes import ROOT

memories = json.loads(sys.argv[1])
dist.init_process_group("gloo")
microbatch.memory_here = lambda: memories[dist.get_rank()]
run = load_with_ours(ROOT / "yamls/mae_vitl.yaml", ["data.train.remote=s3://b/x"]).run
size, speed = microbatch.agree_on_memory(run)
print(json.dumps({"size": size, "reshards": speed.sharding.reshards}))
leave_process_group()
