"""The frame of a report, light and dark, on a phone and on a desk, and what fills it: HTML without addresses."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --paper: #fff; --ink: #1d2129; --soft: #68707d; --line: #dfe3e8; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --ink: #e4e7eb; --soft: #98a1ad; --line: #2c323a; } }
body { margin: 0 auto; padding: 1.2rem; max-width: 58rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: .4rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
img { display: block; max-width: 100%; height: auto; }
figure { margin: 0; }
figcaption, p { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
td, th { padding: .3rem 1.2rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th:not(:first-child) { text-align: right; }
th, table:not(:has(th)) td:first-child { color: var(--soft); font-weight: 500; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
summary { cursor: pointer; font-weight: 600; margin-top: 2rem; }
pre { overflow-x: auto; font-size: .85rem; line-height: 1.4; }
</style>
</head>
<body>
<h1>$title</h1>
$sections
</body>
</html>
""")


def write_page(path: Path, title: str, sections: Iterable[str]) -> None:
    """Write the page, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(_PAGE.substitute(title=html.escape(title), sections="\n".join(sections)), encoding="utf-8")
    os.replace(temporary, path)


def section(heading: str, content: str) -> str:
    """A headline and what is below it; nothing for nothing."""
    return f"<section><h2>{html.escape(heading)}</h2>\n{content}</section>" if content else ""


def folded(heading: str, text: str) -> str:
    """A text that opens on request; nothing for nothing."""
    if not text:
        return ""
    return (
        f"<section><details><summary>{html.escape(heading)}</summary><pre>{html.escape(text)}</pre></details></section>"
    )


def table(rows: Iterable[Mapping[str, Any]], head: bool = True, note: str = "") -> str:
    """Rows of {column: value}, numbers to the right, and a note below; nothing without rows."""
    rows = list(rows)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["<tr>" + "".join(f"<th>{html.escape(str(column))}</th>" for column in columns) + "</tr>"] if head else []
    lines += ["<tr>" + "".join(_cell(row.get(column, "")) for column in columns) + "</tr>" for row in rows]
    below = f"<p>{html.escape(note)}</p>\n" if note else ""
    return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>\n" + below if rows else ""


def image(png: bytes, description: str) -> str:
    """A picture inside of the page."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/png;base64,{data}">\n'


def captioned(png: bytes, caption: str) -> str:
    """A picture with its caption below."""
    return f"<figure>{image(png, caption)}<figcaption>{html.escape(caption)}</figcaption></figure>\n"


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"<td>{html.escape(str(value))}</td>"
    return f'<td class="number">{value:,.4g}</td>' if isinstance(value, float) else f'<td class="number">{value:,}</td>'
