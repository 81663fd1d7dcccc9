"""The stages: model, loss, metrics, and what is sharded. Importing this registers them, with sizes and losses."""

from maws_composer.models.contrastive import LOSSES
from maws_composer.models.sizes import SIZES
from maws_composer.registry import register_loss, register_size
from maws_composer.stages import lit, mae, wsp

__all__ = ["lit", "mae", "wsp"]

for _name, _size in SIZES.items():
    register_size(_name)(_size)
for _name, _loss in LOSSES.items():
    register_loss(_name)(_loss)
