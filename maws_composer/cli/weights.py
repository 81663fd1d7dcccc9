"""`maws-composer export`, `inspect`, `embed` and `text-tower`: encoders to take away, and towers for LiT."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from maws_composer.cli.option_types import column, count, positive, share
from maws_composer.cli.plugins import load_plugins

if TYPE_CHECKING:
    from maws_composer.cli.option_types import Commands


def add_export(commands: Commands) -> None:
    export = commands.add_parser("export", help="a run's weights for timm, Hugging Face or as the released MAWS files")
    export.add_argument(
        "source", metavar="RUN", help="a run, a checkpoint or other weights, local or in object storage"
    )
    export.add_argument("--to", required=True, metavar="NAME", help="layout: timm, hf, maws, checkpoint, or a plug-in")
    export.add_argument("out", type=Path, metavar="OUT", help="folder, for maws a file such as encoder.pt; a new one")
    export.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an argument of a plug-in")
    export.add_argument("--image-tower", help="of a LiT run that has none; default: what it began with")
    export.add_argument(
        "--code-path", action="append", default=[], help="where plug-ins are: exporters, importers, sizes, text towers"
    )
    export.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    from maws_composer.weights.export import export

    load_plugins(options.code_path)
    print(f"{export(options.source, options.to, options.out, options.image_tower, options.set)} -> {options.out}")


def add_inspect(commands: Commands) -> None:
    inspect = commands.add_parser("inspect", help="what a file or folder of weights is; nothing in it is run")
    inspect.add_argument("file", metavar="FILE", help="or a folder, a run, a checkpoint; local or in object storage")
    inspect.add_argument("--code-path", action="append", default=[], help="where plug-ins are: importers, sizes")
    inspect.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> None:
    from maws_composer.weights.inspection import inspect

    load_plugins(options.code_path)
    print(inspect(options.file))


def add_embed(commands: Commands) -> None:
    embed = commands.add_parser(
        "embed",
        help="image embeddings of a captioned dataset, for LiT with model.image_embeddings",
        description="Run an encoder once over a dataset of images with captions, and write its output in fp16, beside "
        "the captions, as a new dataset. On several GPUs, or processes: composer -n 8 -m maws_composer.cli embed ... "
        "The same command goes on with what was interrupted, with any number of processes.",
    )
    embed.add_argument("weights", metavar="WEIGHTS", help="of the encoder: as for evaluate.py")
    embed.add_argument("data", metavar="DATA", help="folder or address of MDS shards with image, id and caption")
    embed.add_argument("out", metavar="OUT", help="a new folder that all processes see, or s3://…, gs://…, oci://…")
    embed.add_argument(
        "--column", action="append", type=column, default=[], metavar="OURS=THEIRS", help="such as caption=text"
    )
    embed.add_argument("--image-size", type=positive, help="side of the crop in pixels (default: that of the weights)")
    embed.add_argument("--resize", type=positive, help="shorter side before the crop (default: the crop's)")
    embed.add_argument("--precision", choices=["fp32", "tf32", "amp_bf16"], default="fp32", help="(default: fp32)")
    embed.add_argument("--keep-images", action="store_true", help="write the images too")
    embed.add_argument("--batch-size", type=positive, default=64, help="of one device (default: %(default)s)")
    embed.add_argument("--workers", type=count, default=8, help="per device, to decode (default: %(default)s)")
    embed.add_argument("--part-size", type=positive, default=10_000, help="images at least (default: %(default)s)")
    embed.add_argument("--max-bad", type=share, default=0.01, help="samples left out at most (default: %(default)s)")
    embed.add_argument("--overwrite", action="store_true", help="replace what an earlier run wrote to OUT (a folder)")
    embed.add_argument("--scratch", type=Path, default=Path("/tmp/maws_composer"), help="local disk for caches")
    embed.add_argument("--code-path", action="append", default=[], help="where a size of your own is registered")
    embed.set_defaults(run=_embed)


def _embed(options: argparse.Namespace) -> int:
    from maws_composer.resilience.orphans import end_with_launcher

    end_with_launcher()  # before the slow imports: a launcher may be killed during them

    from maws_composer.data.settings import EvalData
    from maws_composer.evaluation.embed import EmbedJob, embed
    from maws_composer.parallel.leave import work_and_leave

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("maws_composer").setLevel(logging.INFO)
    load_plugins(options.code_path)
    place = "remote" if "://" in options.data else "local"
    job = EmbedJob(
        weights=options.weights,
        data=EvalData(**{place: options.data}, columns=dict(options.column), resize=options.resize),
        out=options.out,
        image_size=options.image_size,
        precision=options.precision,
        keep_images=options.keep_images,
        batch_size=options.batch_size,
        workers=options.workers,
        part_size=options.part_size,
        max_bad=options.max_bad,
        overwrite=options.overwrite,
        scratch=options.scratch,
    )
    return work_and_leave("maws-composer embed", lambda: embed(job))


def add_text_tower(commands: Commands) -> None:
    tower = commands.add_parser("text-tower", help="a small text tower of your own: vocabulary and configuration")
    tower.add_argument("data", metavar="DATA", help="local MDS folder with captions")
    tower.add_argument("out", type=Path, metavar="OUT", help="a new folder, for model.text.name")
    tower.add_argument("--vocabulary", type=positive, default=8000, help="pieces at most (default: %(default)s)")
    tower.add_argument("--width", type=positive, default=256, help="(default: %(default)s)")
    tower.add_argument("--depth", type=positive, default=4, help="(default: %(default)s)")
    tower.add_argument("--heads", type=positive, default=4, help="(default: %(default)s)")
    tower.set_defaults(run=_text_tower)


def _text_tower(options: argparse.Namespace) -> None:
    from maws_composer.weights.new_text_tower import new_text_tower

    shape = {name: getattr(options, name) for name in ("vocabulary", "width", "depth", "heads")}
    print(f"{new_text_tower(options.data, options.out, **shape):,} pieces -> {options.out}")
