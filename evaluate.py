"""Evaluate an encoder, of a training run or of other weights, from a YAML file.

    python evaluate.py yamls/eval/imagenet.yaml weights=runs/mae data.train.remote=... data.test.remote=...

On several GPUs: `composer evaluate.py ...`. Features of shards that have hashes are kept in save_folder: another
evaluation of the same weights on the same images begins with them. With `--print`, the resolved configuration is shown,
and nothing is computed.
"""

from maws_composer.config.manual import print_manual_if_asked
from maws_composer.resilience.orphans import end_with_launcher

end_with_launcher()  # before the slow imports: a launcher may be killed during them
if __name__ == "__main__":
    print_manual_if_asked(__doc__)

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from maws_composer.checkpoints.run_folder import RunFolder
from maws_composer.config.command import check_and_work
from maws_composer.config.load import Loaded
from maws_composer.data.columns import LABELS
from maws_composer.evaluation.features import Extracted, Result
from maws_composer.evaluation.preflight import on_disk, preflight
from maws_composer.evaluation.results import format_table, write_guesses, write_results
from maws_composer.evaluation.settings import Evaluation, load_evaluation, named_with_text, needs_training_images
from maws_composer.evaluation.suite import (
    Frozen,
    build_evaluations,
    columns_for,
    evaluate_all,
    features_of,
    freeze,
    read_words,
)
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.parallel.precision import build_device, require_precision
from maws_composer.resilience.meeting import meet
from maws_composer.resilience.watchdog import watch_over

PATIENCE = 24 * 3600.0  # seconds that the other ranks wait while rank 0 trains probes


def evaluate(loaded: Loaded[Evaluation]) -> None:
    """The whole evaluation, ended on all ranks if one of them dies or hangs."""
    run = loaded.run
    meet(build_device(run.precision), run.watchdog.meeting_limit, PATIENCE)
    require_precision(run.precision)
    with watch_over(RunFolder(run.save_folder, Path(run.save_folder).absolute()), run.watchdog):
        evaluate_in_order(run)


def evaluate_in_order(run: Evaluation) -> None:
    """The steps of it, in the order in which they happen."""
    frozen = freeze(run, with_text=bool(named_with_text(run.evaluations)))
    evaluations = build_evaluations(replace(run, weights=frozen.checkpoint))  # a run may have saved a newer one
    needs_train = needs_training_images(run.evaluations)
    train = features_of("train", run.data.train, frozen, run, (LABELS,)) if needs_train else None
    test = features_of("test", run.data.test, frozen, run, columns_for(evaluations))
    words = on_rank_zero(lambda: read_words(run.data.test, "data.test"))
    results = evaluate_all(evaluations, train, test, words, frozen.towers)
    on_rank_zero(lambda: conclude(run, frozen, {"train": train, "test": test}, results))


def conclude(
    run: Evaluation, frozen: Frozen, images: Mapping[str, Extracted | None], results: Mapping[str, Result]
) -> None:
    """Print the table, and write results.json and pictures. On rank 0."""
    sources = {"train": run.data.train, "test": run.data.test}
    about = {
        "weights": run.weights,
        "checkpoint": frozen.checkpoint,
        "feature": run.feature,
        "image_size": frozen.encoder.patch_embed.img_size[0],
        "data": {
            name: {"source": sources[name].remote or sources[name].local, "images": len(extracted.ids)}
            for name, extracted in images.items()
            if extracted is not None
        },
    }
    write_results(Path(run.save_folder), results, about)
    if (test := images["test"]) is not None:
        write_guesses(Path(run.save_folder), results, test)
    print(format_table(results), flush=True)


def main(arguments: Sequence[str]) -> int:
    """Check everything, then evaluate. Returns the exit code: 2 for mistakes in the configuration."""
    return check_and_work(arguments, load=load_evaluation, on_disk=on_disk, preflight=preflight, work=evaluate)


if __name__ == "__main__":  # loader workers may import this file again
    sys.exit(main(sys.argv[1:]))
