"""One rank of a simulated node: from the start of Python to the first batch. Started by `benchmarks.scale.start`."""

from __future__ import annotations

import time

BEGAN = time.time()

import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402


def main() -> None:
    """Print, once the first batch is there, what each stage took, and peaks of memory; then wait to be ended."""
    plan = json.loads(sys.argv[1])
    stages = {"began": (BEGAN, 0.0)}
    # What a training process has imported by then.
    import composer.utils.dist
    import psutil
    import torch.distributed as dist
    from composer import Trainer

    from maws_composer.data.loader import build_train_loader
    from maws_composer.data.preflight import check_data

    assert Trainer
    stages["imports"] = _now()
    peak_of_imports = _peak()
    # The node's processes only: there are no others. The world's size is what the environment says.
    port, local, ranks = plan["port"], int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    composer.utils.dist.get_world_size = lambda: plan["nodes"] * ranks  # Composer insists on the same in both
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=local, world_size=ranks)
    run = _run(plan)
    if local == 0:
        problems = check_data(run, plan["nodes"] * ranks, plan["nodes"])
        assert not problems, problems
    dist.barrier()
    stages["preflight"] = _now()
    loader = build_train_loader(run).dataloader
    stages["loader"] = _now()
    if plan["start"]:
        state = {**loader.state_dict(), "epoch": 0, "sample_in_epoch": plan["start"]}
        dist.barrier()  # states are in memory that the node shares: nobody loads one where another still reads it
        loader.load_state_dict(state)
    batch = next(iter(loader))
    clock, cpu = _now()
    of_workers = (sum(worker.cpu_times()[:2]) for worker in psutil.Process().children())
    stages["first batch"] = (clock, cpu + max(of_workers))
    told = {"stages": stages, "peak": _peak(), "imports": peak_of_imports, "positions": batch["position"].tolist()}
    print(json.dumps({**told, "epoch_size": loader.dataset.order.size}), flush=True)
    sys.stdin.read()
    os._exit(0)


def _now() -> tuple[float, float]:
    """Seconds on the clock, and of CPU that this process used."""
    return time.time(), time.process_time()


def _run(plan: dict):  # type: ignore[no-untyped-def]
    from maws_composer.config.run import Run
    from maws_composer.data.settings import Data, TrainData
    from maws_composer.parallel.settings import Speed

    return Run(
        stage="mae",
        data=Data(train=TrainData(remote=plan["remote"], cache_limit=plan["cache_limit"])),
        global_train_batch_size=plan["batch"],
        max_duration="1ep",
        model={"image_size": 224},
        seed=0,
        save_folder="runs/scale",
        speed=Speed(
            workers=plan["workers"], scratch_folder=plan["scratch"], loader_timeout=0
        ),  # a busy machine is slow
    )


def _peak() -> int:
    """Bytes of resident memory, at most until now."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
