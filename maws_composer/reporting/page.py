"""The frame of a report and what fills it: HTML in one file, for a phone, a desk and paper, without addresses.

A policy in the page allows its own two scripts only, by their hashes, and no address: what is in a run's name or in a
caption cannot run, and nothing is fetched.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from maws_composer.reporting.pictures import Picture, embedded
from maws_composer.reporting.plots import Plot

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src $hashes">
<title>$title</title>
<style>
$style
</style>
</head>
<body>
<a class="skip" href="#content">To the content</a>
<header>
<h1>$title</h1>
<nav aria-label="sections"><ul>
$links
</ul></nav>
</header>
<main id="content">
$without_script
$content
</main>
$scripts
</body>
</html>
""")
_NO_SCRIPT = "<noscript><p>The curves need JavaScript; the figures in tables and the pictures do not.</p></noscript>"


def write_page(path: Path, title: str, sections: Iterable[str]) -> None:
    """Write the page, whole or not at all."""
    content = "\n".join(section for section in sections if section)
    scripts = [get_plotlyjs(), _asset("page.js")] if 'class="chart"' in content or 'class="series"' in content else []
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(
        _PAGE.substitute(
            title=html.escape(title),
            style=_asset("page.css"),
            links="\n".join(
                f'<li><a href="#{name}">{heading}</a></li>'
                for name, heading in re.findall(r'<section id="([\w-]+)"><h2>(.*?)</h2>', content)
            ),
            content=content,
            without_script=_NO_SCRIPT if scripts else "",
            hashes=" ".join(_hash(script) for script in scripts) or "'none'",
            scripts="\n".join(f"<script>{script}</script>" for script in scripts),
        ),
        encoding="utf-8",
    )
    os.replace(temporary, path)


def titled(name: str, prefix: str = "") -> str:
    """The headline of a thing by its name; where it says of which run, that is left as it is written."""
    words = name.replace("-", " ").replace("_", " ")
    return prefix + words if prefix else words[:1].upper() + words[1:]


def section(heading: str, *content: str) -> str:
    """A headline and what is below it; nothing for nothing."""
    text = "\n".join(part for part in content if part)
    name = re.sub(r"\W+", "-", heading.lower()).strip("-")
    return f'<section id="{name}"><h2>{html.escape(heading)}</h2>\n{text}</section>' if text else ""


def plots(*drawn: Plot | None) -> str:
    """Plots beside or below each other; nothing for nothing."""
    charts = "\n".join(_chart(plot) for plot in drawn if plot is not None)
    return f'<div class="plots">\n{charts}\n</div>' if charts else ""


def switches(has_flops: bool, runs: Sequence[str] = ()) -> str:
    """What changes all plots at once: their horizontal axis, their scale, and which runs are in them."""
    choices = [("samples", "samples", "checked")] + ([("flops", "training FLOPs", "")] if has_flops else [])
    radios = "".join(
        f'<label><input type="radio" name="against" value="{value}" {state}>{text}</label>'
        for value, text, state in choices
    )
    shown = "".join(
        f'<label><input type="checkbox" name="run" value="{html.escape(run)}" checked>{html.escape(run)}</label>'
        for run in runs
    )
    return (
        '<form class="switches" autocomplete="off">'
        + (f"<fieldset><legend>against</legend>{radios}</fieldset>" if has_flops else "")
        + '<label><input type="checkbox" name="log">logarithmic losses and norms</label>'
        + (f"<fieldset><legend>runs</legend>{shown}</fieldset>" if runs else "")
        + "</form>"
    )


def folded(heading: str, content: str, *, is_open: bool = False) -> str:
    """Content that opens on request; nothing for nothing."""
    if not content:
        return ""
    return f"<details{' open' * is_open}><summary>{html.escape(heading)}</summary>\n{content}</details>"


def verbatim(text: str) -> str:
    """A text as it stands; nothing for nothing."""
    return f'<pre tabindex="0">{html.escape(text)}</pre>' if text else ""


def table(rows: Iterable[Mapping[str, Any]], head: bool = True, note: str = "") -> str:
    """Rows of {column: value} that the first column names, numbers to the right, a note below; nothing without rows."""
    rows = list(rows)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    names = "".join(_name(column, [row.get(column) for row in rows]) for column in columns)
    lines = [f"<thead><tr>{names}</tr></thead>"] if head else []
    lines += ["<tr>" + _row([row.get(column, "") for column in columns]) + "</tr>" for row in rows]
    below = f"<p>{html.escape(note)}</p>\n" if note else ""
    scrolled = '<div class="wide" tabindex="0" role="region" aria-label="table"><table>\n'
    return scrolled + "\n".join(lines) + "\n</table></div>\n" + below if rows else ""


def captioned(picture: bytes, caption: str, kind: str = "png") -> str:
    """A picture inside of the page, with its caption below."""
    data, text = base64.b64encode(picture).decode(), html.escape(caption)
    source = f"data:image/{kind};base64,{data}"
    return f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>\n'


def through_time(pictures: Sequence[Picture]) -> str:
    """Pictures of one thing, one at a time, and a slider that goes through them."""
    figures = "".join(captioned(*embedded(picture)) for picture in pictures)
    if len(pictures) < 2:
        return figures
    name = html.escape(pictures[0].name)
    slider = f'<input type="range" min="0" max="{len(pictures) - 1}" aria-label="{name}: which of the pictures">'
    return f'<div class="series"><label class="stepper">{slider}<output></output></label>{figures}</div>'


def _chart(plot: Plot) -> str:
    title, description = html.escape(plot.title), html.escape(plot.description)
    figure = f'<script type="application/json">{plot.figure.to_json()}</script>'
    return f'<div class="chart"><h3>{title}</h3><div role="img" aria-label="{description}"></div>{figure}</div>'


def _name(column: str, values: Sequence[Any]) -> str:
    """The head of a column, to the right over numbers."""
    side = ' class="number"' if all(isinstance(value, (int, float)) for value in values) else ""
    return f'<th scope="col"{side}>{html.escape(str(column))}</th>'


def _row(values: Sequence[Any]) -> str:
    first, *rest = values
    return f'<th scope="row">{html.escape(str(first))}</th>' + "".join(map(_cell, rest))


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"<td>{html.escape(str(value))}</td>"
    return f'<td class="number">{value:,.4g}</td>' if isinstance(value, float) else f'<td class="number">{value:,}</td>'


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
