"""The command line: `python -m streaming_conversion READER … DST`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from maws_composer import registry
from maws_composer.config.build import build_told
from maws_composer.config.problems import ConfigError, Problem, format_problems
from streaming_conversion.label_options import refuse
from streaming_conversion.option_types import positive, quality, share, size
from streaming_conversion.problems import ConversionError
from streaming_conversion.readers import readers
from streaming_conversion.resizing import Resizing
from streaming_conversion.source import Source
from streaming_conversion.verify import MAX_PIXELS

_QUALITY = 90


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert. Returns the exit status: 0, 2 for what the user can put right, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        plugins = _plugins(arguments)
    except ConfigError as error:
        print(format_problems("--code-path", error.problems), file=sys.stderr)
        return 2
    options = _parser(plugins).parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _run(options)
    except ConversionError as error:
        print(error, file=sys.stderr)
        return 2
    except ConfigError as error:
        print(format_problems(f"reader {options.reader}", error.problems), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _plugins(arguments: Sequence[str]) -> list[str]:
    """Names of the readers in the code paths that the arguments name, and in installed packages."""
    parser = argparse.ArgumentParser(add_help=False)
    _add_code_path(parser)
    known, _ = parser.parse_known_args(arguments)
    problems = registry.load_plugins(known.code_path)
    names = registry.names("reader")
    problems += [
        Problem(f"reader {name}", f"is the name of one of ours; give {registry.lookup('reader', name).origin} another")
        for name in names
        if name in readers()
    ]
    if problems:
        raise ConfigError(problems)
    return names


def _sources(arguments: argparse.Namespace) -> dict[str, Source]:
    ours = readers()
    if arguments.reader in ours:
        return ours[arguments.reader].read(arguments)
    found = build_told("reader", arguments.reader, arguments.set)
    return found if isinstance(found, dict) else {"": found}


def _run(arguments: argparse.Namespace) -> None:
    resizing = _resizing(arguments)
    sources = _sources(arguments)

    from streaming_conversion.convert import Options, convert, finished  # slow to import, and not needed for --help

    options = Options(
        processes=arguments.processes,
        shard_bytes=arguments.shard_size,
        part_size=arguments.part_size,
        decode=not arguments.no_verify,
        max_pixels=arguments.max_pixels,
        max_bad=arguments.max_bad,
        overwrite=arguments.overwrite,
        resizing=resizing,
        scratch=arguments.scratch,
    )
    places = {f"{arguments.destination.rstrip('/')}/{name}".rstrip("/"): source for name, source in sources.items()}
    ready = [place for place, source in places.items() if not options.overwrite and finished(source, place, options)]
    for place, source in places.items():
        # of several, those that an interrupted conversion finished are passed over; a finished whole is refused
        if place in ready and len(ready) < len(places):
            print(f"{place}: finished before")
        else:
            print(convert(source, place, options))


def _resizing(arguments: argparse.Namespace) -> Resizing | None:
    if arguments.resize is None:
        refuse(arguments, ("quality",), "without --resize, which makes the JPEGs that it is of")
        return None
    return Resizing(arguments.resize, arguments.quality or _QUALITY)


def _parser(plugins: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m streaming_conversion",
        description="Write images, hashtags and captions as MDS shards, into a folder or object storage. The shards do "
        "not depend on the number of processes. An interrupted conversion leaves nothing that looks whole; the same "
        "command goes on with it.",
    )
    commands = parser.add_subparsers(dest="reader", required=True, metavar="READER", title="readers")
    for name, reader in readers().items():
        text = (reader.__doc__ or "").strip()
        command = commands.add_parser(
            name, help=text.splitlines()[0], description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        reader.add_arguments(command)
        _add_common(command)
    for name in plugins:
        told = f"a plug-in; `maws-composer registry reader {name}` says its arguments"
        command = commands.add_parser(name, help=told, description=told)
        command.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="an argument of the reader"
        )
        _add_common(command)
    return parser


def _add_code_path(parser: argparse.ArgumentParser) -> None:
    told = "file, folder or module with a reader of your own"
    parser.add_argument("--code-path", action="append", default=[], metavar="PATH", help=told)


def _add_common(parser: argparse.ArgumentParser) -> None:
    _add_code_path(parser)
    add = parser.add_argument_group("for every reader").add_argument
    parser.add_argument(
        "destination", metavar="DST", help="a folder, or s3://…, gs://…, oci://…, hf://… (new or empty)"
    )
    add("--processes", type=positive, default=os.cpu_count() or 1, metavar="N", help="default: one per CPU")
    add("--shard-size", type=size, default="64mb", metavar="SIZE", help="largest shard; default: 64mb")
    add("--part-size", type=positive, default=10_000, metavar="N",
        help="images per sub-folder: the unit of work and of resumption; default: 10000")  # fmt: skip
    add("--max-bad", type=share, default=0.01, metavar="SHARE",
        help="share of images that may fail to decode before the conversion is refused; default: 0.01")  # fmt: skip
    add("--max-pixels", type=positive, default=MAX_PIXELS, metavar="N",
        help=f"larger images are skipped; default: {MAX_PIXELS}")  # fmt: skip
    add("--no-verify", action="store_true",
        help="do not decode every image to see that it can be (for sources checked before)")  # fmt: skip
    add("--resize", type=positive, metavar="SHORTEST_SIDE",
        help="larger pictures become JPEGs whose shorter side has so many pixels; the others are kept byte for byte. "
        "Training then decodes less: see docs/pages/data.md for what it costs; default: all are kept")  # fmt: skip
    add("--quality", type=quality, metavar="Q", help=f"of these JPEGs, 1 to 100; default: {_QUALITY}")
    add("--overwrite", action="store_true", help="replace what an earlier conversion wrote to DST (a folder only)")
    add("--scratch", type=Path, metavar="DIR", help="where parts wait for upload; default: the temporary folder")
