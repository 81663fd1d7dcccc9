"""A step of stage 2 in Composer is that of the dense soft targets' mean over the batch, however the batch is cut."""

from __future__ import annotations

import pytest
import torch
from composer import Trainer
from composer.core import DataSpec

from maws_composer.data.batches import count_samples, split_batch
from maws_composer.models.initialization import initialize
from maws_composer.stages.pixels import normalize
from maws_composer.stages.wsp import WspStage

CLASSES = 20
LABELS = [[3, -1, -1], [0, 7, 19], [-1, -1, -1], [5, 2, -1]]


@pytest.mark.parametrize("microbatch", [4, 3, 1])
def test_microbatches_of_any_size_step_by_the_mean_over_the_batch(microbatch: int) -> None:
    stage = WspStage("vit_micro", CLASSES, image_size=24)
    initialize(stage, seed=0)
    images = torch.randint(256, (4, 3, 24, 24), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.no_grad():
        features = stage.classifier.encoder(normalize(images))
    # The head is zero, so that all classes are equally likely; the image without labels pulls nowhere.
    targets = torch.zeros(4, CLASSES)
    for row, labels in zip(targets, LABELS, strict=True):
        present = [label for label in labels if label >= 0]
        row[present] = 1 / max(len(present), 1)
    error = (1 / CLASSES - targets) * targets.any(1, keepdim=True)
    batch = {"image": images, "labels": torch.tensor(LABELS), "valid": torch.ones(4, dtype=torch.bool)}
    trainer = Trainer(
        model=stage,
        train_dataloader=DataSpec([batch], split_batch=split_batch, get_num_samples_in_batch=count_samples),
        optimizers=torch.optim.SGD(stage.parameters(), lr=1.0),
        max_duration="1ba",
        device="cpu",
        device_train_microbatch_size=microbatch,
        precision="fp32",
        progress_bar=False,
    )
    trainer.fit()
    trainer.close()
    torch.testing.assert_close(stage.classifier.head.weight.data, -error.T @ features / 4, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(stage.classifier.head.bias.data, -error.mean(0), atol=1e-6, rtol=1e-5)
