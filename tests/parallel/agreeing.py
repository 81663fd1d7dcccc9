"""One rank: what the others learn of a failure on one of them."""

import json

import torch.distributed as dist

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.parallel.agree import on_rank_zero, once_per_node
from maws_composer.parallel.leave import leave_process_group


def refuse() -> None:
    raise ConfigError([Problem("save_folder", "is not writable", "here, line 3")])


def told(action) -> list[str]:
    try:
        action()
    except ConfigError as error:
        return [f"{problem.path}: {problem.message} ({problem.where})" for problem in error.problems]
    return []


dist.init_process_group("gloo")
answers = [
    told(lambda: on_rank_zero(refuse)),
    told(lambda: once_per_node(refuse)),
    on_rank_zero(lambda: dist.get_rank()),
]
print(json.dumps({"answers": answers}))
leave_process_group()
