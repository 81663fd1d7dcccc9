"""One rank of a start: which checkpoint it is told to go on from, and what it says."""

import io
import json
import logging
import sys
from pathlib import Path

import torch.distributed as dist

from maws_composer.checkpoints.resume import newest_checkpoint
from maws_composer.checkpoints.run_folder import RunFolder
from maws_composer.parallel.leave import leave_process_group

arguments = json.loads(sys.argv[1])
said = io.StringIO()
logging.basicConfig(level=logging.INFO, stream=said, format="%(message)s")
logging.getLogger("botocore").setLevel(logging.WARNING)
dist.init_process_group("gloo")
chosen = newest_checkpoint(RunFolder(arguments["url"], Path(arguments["local"])))
print(json.dumps({"chosen": str(chosen.folder) if chosen else None, "said": said.getvalue()}), flush=True)
leave_process_group()
