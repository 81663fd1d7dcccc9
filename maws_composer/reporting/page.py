"""The frame of the report: light and dark, on a phone and on a desk."""

from string import Template

PAGE = Template("""<!doctype html>
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
