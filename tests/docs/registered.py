"""What a page's own plugins register goes again: another test may have some of the same name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from maws_composer import registry
from maws_composer.config.plugins import our_code_paths


@contextmanager
def only_for_now() -> Iterator[None]:
    """Ours stay, as nobody imports them twice."""
    registry.load_plugins(our_code_paths())
    entries = {key: dict(value) for key, value in registry._entries.items()}
    loaded, modules = dict(registry._loaded), set(sys.modules)
    try:
        yield
    finally:
        registry._entries.clear()
        registry._entries.update(entries)
        registry._loaded.clear()
        registry._loaded.update(loaded)
        for name in [each for each in sys.modules if each.startswith("_code_path_") and each not in modules]:
            del sys.modules[name]
