"""Errors that the FAQ explains are errors that there are."""

from __future__ import annotations

import ast
import re

from tests.processes import ROOT


def messages() -> set[str]:
    """Every text that the code holds, … for what is put into it."""
    found = set()
    folders = ("maws_composer", "streaming_conversion", "callbacks")
    for file in [file for folder in folders for file in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.sub(r"%[\d.]*[sdf]", "…", node.value))
            elif isinstance(node, ast.JoinedStr):
                found.add("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
    return found


def test_errors_that_are_explained_are_errors_that_there_are() -> None:
    explained = re.findall(r"^### `(.+)`$", (ROOT / "docs/pages/errors.md").read_text(), re.MULTILINE)
    known = messages()
    assert len(explained) > 40
    for message in explained:
        assert any(message.strip("… :;,.") in text for text in known), message
