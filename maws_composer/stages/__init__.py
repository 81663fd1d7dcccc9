"""The stages: model, loss, metrics, and what is sharded. Importing this registers them, and the models' sizes."""

from maws_composer.models.sizes import SIZES
from maws_composer.registry import register_size
from maws_composer.stages import mae, wsp

__all__ = ["mae", "wsp"]

for _name, _size in SIZES.items():
    register_size(_name)(_size)
