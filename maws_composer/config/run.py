"""Everything that one training run is told, as one checked object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from maws_composer.config.durations import Interval, Samples, StepInterval, parse_duration, samples
from maws_composer.config.problems import Problem
from maws_composer.data.settings import Data, HeldOutData, StreamSource, TrainData
from maws_composer.optim.settings import OptimizerSettings, ScheduleSettings
from maws_composer.parallel.settings import Speed
from maws_composer.planning.world_sizes import legal_world_sizes, nearest, say_world_sizes
from maws_composer.resilience.settings import LossSpikeSettings, PreemptionSettings, WatchdogSettings

Arguments = dict[str, Any]


def _refuse_fp16(value: Any) -> Any:
    if value in ("fp16", "amp_fp16"):
        raise ValueError(f"{value!r} overflows in large ViTs and is refused; use amp_bf16")
    return value


Precision = Annotated[Literal["fp32", "tf32", "amp_bf16"], BeforeValidator(_refuse_fp16)]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run.

    `model`, `algorithms`, `callbacks` and `loggers` hold keyword arguments: checked, defaults filled in, nested
    dataclasses made; `maws_composer.config.plugins.build` makes the objects.

    Args:
        stage: what is trained, by its registered name.
        model: arguments of the stage.
        data: where samples come from.
        global_train_batch_size: samples per step over all GPUs; constant for a run.
        max_duration: length of the run in samples.
        initialize_from: where the encoder's weights come from: a run, a checkpoint, an export or a released file. Not
            read, so no longer needed, when the run resumes. Null: from the seed.
        initialize_whole: take the rest of the stage from there too: MAE's decoder, the head, or the text tower.
        initialize_resize: resample positions for another image size, and patch embeddings for another patch size.
        seed: everything random follows from it.
        precision: `fp32`, `tf32` (fp32 with TF32 matrix products) or `amp_bf16`.
        optimizer: AdamW, or another by its name, with its arguments.
        schedule: of the learning rate: warm-up, then decay, or another by its name, with its arguments.
        gradient_clip: largest norm of the gradient. Null: not clipped.
        deterministic: on GPUs, only kernels that give the same bits each time.
        run_name: default: the name of the YAML.
        save_folder: the run's folder, local or in object storage. Default: runs/<run_name>.
        save_interval: time between checkpoints.
        save_num_checkpoints_to_keep: how many of the newest are kept.
        save_keep_every: checkpoints at multiples of it are kept for good. Null: none.
        save_async: write checkpoints while training goes on, from a copy of weights and moments in host memory.
        loss_spikes: what happens when a loss or a gradient is not finite, or a loss much higher than those before it.
        preemption: how a notice is heard that this machine will be taken away.
        watchdog: when ranks that hang, or are not heard of, end the run.
        storage_patience: seconds that object storage may be away before the run stops, resumable.
        eval_interval: time between evaluations.
        allow_changed_config: resume although what affects results has changed.
        code_paths: files, folders (from the working directory) or modules whose plugins are registered.
        algorithms: name -> arguments.
        callbacks: name -> arguments.
        loggers: name -> arguments.
        speed: what changes only speed.
    """

    stage: str
    model: Arguments
    data: Data
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    global_train_batch_size: Annotated[int, Field(gt=0)]
    max_duration: Samples
    initialize_from: str | None = None
    initialize_whole: bool = False
    initialize_resize: bool = False
    precision: Precision = "fp32"
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    deterministic: bool = False
    run_name: str = "run"
    save_folder: str = ""
    save_interval: Interval = "1000ba"
    save_num_checkpoints_to_keep: Annotated[int, Field(gt=0)] = 3
    save_keep_every: Interval | None = None
    save_async: bool = True
    loss_spikes: LossSpikeSettings = field(default_factory=LossSpikeSettings)
    preemption: PreemptionSettings = field(default_factory=PreemptionSettings)
    watchdog: WatchdogSettings = field(default_factory=WatchdogSettings)
    storage_patience: Annotated[float, Field(gt=0)] = 1800.0
    eval_interval: StepInterval = "1000ba"
    allow_changed_config: bool = False
    code_paths: list[str] = field(default_factory=list)
    algorithms: dict[str, Arguments | None] = field(default_factory=dict)
    callbacks: dict[str, Arguments | None] = field(default_factory=dict)
    loggers: dict[str, Arguments | None] = field(default_factory=dict)
    speed: Speed = field(default_factory=Speed)

    def __post_init__(self) -> None:
        if not self.save_folder:
            object.__setattr__(self, "save_folder", f"runs/{self.run_name}")

    @property
    def images_per_batch(self) -> int:
        """Images of a global batch, each of which may become several samples."""
        return self.global_train_batch_size // self.data.train.repeated_augmentation

    @property
    def longest_wait(self) -> float:
        """Seconds that ranks wait for one another: longer than object storage may be away on one of them, and than the
        watchdog waits, which says more than a collective that gives up."""
        return max(self.storage_patience, self.watchdog.limit or 0, self.watchdog.start_limit or 0) + 300


def contradictions(run: Run) -> list[Problem]:
    """What no single value shows, on any number of GPUs."""
    return [*_data_problems(run.data), *_repetition_problems(run), *_duration_problems(run)]


def check_world_size(run: Run, world_size: int, nodes: int = 1) -> list[Problem]:
    """Whether the run may go on `world_size` GPUs of `nodes` equal nodes."""
    batch, canonical = run.images_per_batch, run.data.train.num_canonical_nodes
    per_node = world_size // nodes
    whole_nodes = per_node if nodes > 1 else None
    legal = legal_world_sizes(batch, canonical, whole_nodes, up_to=batch)
    problems = []
    if batch % world_size:
        crops = run.data.train.repeated_augmentation
        what = f"{batch} images with {crops} crops each" if crops > 1 else f"{batch}"
        message = f"{what} cannot be split over {world_size} GPUs; use {nearest(world_size, legal)}"
        all_of_them = f"a global_train_batch_size of {run.global_train_batch_size} can be split over "
        all_of_them += say_world_sizes(legal, whole_nodes)
        problems.append(Problem("global_train_batch_size", f"{message}\n{all_of_them}"))
    if canonical % nodes:
        possible = [gpus // per_node for gpus in legal if gpus % per_node == 0] or [1]
        message = f"{canonical} is not a multiple of {nodes} nodes; run on {nearest(nodes, possible)} of them"
        problems.append(Problem("data.train.num_canonical_nodes", message))
    return problems


def _data_problems(data: Data) -> Iterator[Problem]:
    yield from _dataset_problems(data)
    single = data.train.remote or data.train.local
    if data.train.streams and single:
        key = "remote" if data.train.remote else "local"
        yield Problem("data.train.streams", f"data.train.{key} is set too; name each source once")
    if not data.train.streams and not single and data.train.dataset is None:
        yield Problem("data.train", "needs remote, local, streams or dataset")
    how = data.train.decode
    if how != "exact" and (data.train.central_crop or data.train.transform is not None):
        message = (
            f"{how} makes the usual random crops only: whatever else crops takes a picture that Pillow has decoded; "
            "set exact, or leave out central_crop and transform"
        )
        yield Problem("data.train.decode", message)
    if how == "fast" and find_spec("cv2") is None:
        yield Problem("data.train.decode", "fast needs the extra fast: pip install -e '.[fast]'")
    resampling = data.train.resampling
    if resampling is not None and (resampling.threshold is None) == (resampling.epoch_size is None):
        yield Problem("data.train.resampling", "needs threshold or epoch_size, one of them")
    sources: dict[str, StreamSource | HeldOutData] = {
        f"data.train.streams.{name}": stream for name, stream in data.train.streams.items()
    }
    if data.eval is not None and data.eval.dataset is None:
        sources["data.eval"] = data.eval
    for path, source in sources.items():
        if not source.remote and not source.local:
            yield Problem(path, "needs remote or local")


def _dataset_problems(data: Data) -> Iterator[Problem]:
    """Of a dataset that is no shards, what is of shards only."""
    sections: dict[str, TrainData | HeldOutData] = {"data.train": data.train}
    if data.eval is not None:
        sections["data.eval"] = data.eval
    for key, section in sections.items():
        if section.dataset is None:
            continue
        for name in ("remote", "local", "streams", "cache_limit", "resampling"):
            if getattr(section, name, None):
                message = f"is of shards, and {key}.dataset names a dataset; null takes one of them away"
                yield Problem(f"{key}.{name}", message)


def _repetition_problems(run: Run) -> Iterator[Problem]:
    crops = run.data.train.repeated_augmentation
    if run.global_train_batch_size % crops:
        message = f"{crops} crops of an image do not divide global_train_batch_size, {run.global_train_batch_size}"
        yield Problem("data.train.repeated_augmentation", message)
    if crops > 1 and run.data.train.dataset is not None:
        message = "works with shards only; set it to 1, and have data.train.dataset give an image several times"
        yield Problem("data.train.repeated_augmentation", message)
    if crops > 1 and run.data.train.central_crop:
        yield Problem("data.train.repeated_augmentation", "all crops are the same with central_crop; leave one out")


def _duration_problems(run: Run) -> Iterator[Problem]:
    if samples(run.max_duration) < run.global_train_batch_size:
        yield Problem("max_duration", f"{run.max_duration} is less than one batch of {run.global_train_batch_size}")
    if parse_duration(run.save_interval).unit == "ep":
        # Composer saves at the end of an epoch what streaming takes for its beginning.
        yield Problem("save_interval", f"expected batches or samples such as 1000ba, got {run.save_interval!r}")
    if run.save_keep_every is None:
        return
    keep, save = parse_duration(run.save_keep_every), parse_duration(run.save_interval)
    if keep.unit != "ba" or save.unit != "ba":
        yield Problem("save_keep_every", "expected batches such as 50000ba, with a save_interval in batches")
    elif keep.amount % save.amount:
        yield Problem(
            "save_keep_every", f"{run.save_keep_every} is not a multiple of save_interval, {run.save_interval}"
        )
