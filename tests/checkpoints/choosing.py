"""One rank of a start: which checkpoint it is told to go on from."""

import json
import logging
import sys
from pathlib import Path

import torch.distributed as dist

from maws_composer.checkpoints.resume import newest_checkpoint
from maws_composer.checkpoints.run_folder import RunFolder
from maws_composer.parallel.leave import leave_process_group

arguments = json.loads(sys.argv[1])
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
logging.getLogger("botocore").setLevel(logging.WARNING)
dist.init_process_group("gloo")
chosen = newest_checkpoint(RunFolder(arguments["url"], Path(arguments["local"])))
print(json.dumps({"chosen": str(chosen.folder) if chosen else None}), flush=True)
leave_process_group()
