"""The masked autoencoder against a slow, literal reading of the paper (FACTS 4.3), and its pictures."""

import math

import pytest
import torch

from maws_composer.models.initialization import initialize
from maws_composer.models.mae import MaeOutput, MaskedAutoencoder, patchify, unpatchify
from maws_composer.models.sizes import SIZES, DecoderSize, ViTSize
from maws_composer.models.vit import VisionTransformer

SIZE = ViTSize(width=24, depth=2, heads=3, patch_size=4)
DECODER = DecoderSize(width=16, depth=2, heads=2)
IMAGE = 16  # 4 x 4 patches
TOTALS = {
    "vit_b16": (111_907_840, 111_655_680),
    "vit_l16": (329_541_888, 329_239_296),
    "vit_h14": (657_074_508, 656_613_964),
    "vit_2b14": (1_917_374_028, 1_916_584_524),
    "vit_6.5b14": (6_475_383_884, 6_474_199_628),
}  # FACTS 2.1: all parameters, and without the fixed positions


def small_mae(norm_pix_loss=True, qk_norm=False, mask_ratio=0.75):
    """Every parameter is random, also those that start as 0 or 1."""
    encoder = VisionTransformer(SIZE, IMAGE, fixed_positions=True, qk_norm=qk_norm)
    mae = MaskedAutoencoder(encoder, DECODER, mask_ratio, norm_pix_loss)
    initialize(mae, 0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in mae.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return mae


def random_input(batch=3):
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(batch, 3, IMAGE, IMAGE, generator=generator)
    return images, torch.randint(2**32, (batch, 16), generator=generator)


# The reference: one image at a time, plain formulas, names of the state in hand.


def layer_norm(x, state, name):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-6) * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def block(x, state, name, heads, qk_norm):
    width = x.shape[-1]
    dim = width // heads
    qkv = linear(layer_norm(x, state, f"{name}.norm1"), state, f"{name}.attn.qkv")
    outputs = []
    for head in range(heads):
        q, k, v = (qkv[:, part * width + head * dim : part * width + (head + 1) * dim] for part in range(3))
        if qk_norm:
            q, k = layer_norm(q, state, f"{name}.attn.q_norm"), layer_norm(k, state, f"{name}.attn.k_norm")
        logits = torch.exp(q @ k.T / math.sqrt(dim))
        outputs.append(logits / logits.sum(dim=-1, keepdim=True) @ v)
    x = x + linear(torch.cat(outputs, dim=-1), state, f"{name}.attn.proj")
    hidden = gelu(linear(layer_norm(x, state, f"{name}.norm2"), state, f"{name}.mlp.fc1"))
    return x + linear(hidden, state, f"{name}.mlp.fc2")


def pixels(image, patch):
    """Values of one patch: row by row, pixel by pixel, red green blue."""
    top, left = patch // 4 * 4, patch % 4 * 4
    return torch.stack([image[c, top + i, left + j] for i in range(4) for j in range(4) for c in range(3)])


def patch_embedding(image, patch, state):
    top, left = patch // 4 * 4, patch % 4 * 4
    window = image[:, top : top + 4, left : left + 4]
    weight, bias = state["encoder.patch_embed.proj.weight"], state["encoder.patch_embed.proj.bias"]
    return torch.stack([(weight[d] * window).sum() + bias[d] for d in range(SIZE.width)])


def mae_by_the_paper(image, noise, state, norm_pix, qk_norm, kept):
    """Losses of all patches and the mask of one image."""
    ids_shuffle = sorted(range(16), key=lambda patch: (noise[patch].item(), patch))
    ids_restore = [ids_shuffle.index(patch) for patch in range(16)]
    positions = state["encoder.pos_embed"][0]
    embedded = [patch_embedding(image, patch, state) + positions[1 + patch] for patch in range(16)]
    class_token = state["encoder.cls_token"][0, 0] + positions[0]
    x = torch.stack([class_token] + [embedded[patch] for patch in ids_shuffle[:kept]])
    for i in range(SIZE.depth):
        x = block(x, state, f"encoder.blocks.{i}", SIZE.heads, qk_norm)
    x = linear(layer_norm(x, state, "encoder.norm"), state, "decoder_embed")
    shuffled = [*x[1:], *[state["mask_token"][0, 0]] * (16 - kept)]
    x = torch.stack([x[0]] + [shuffled[ids_restore[patch]] for patch in range(16)])
    x = x + state["decoder_pos_embed"][0]
    for i in range(DECODER.depth):
        x = block(x, state, f"decoder_blocks.{i}", DECODER.heads, qk_norm)
    prediction = linear(layer_norm(x, state, "decoder_norm"), state, "decoder_pred")[1:]
    losses = []
    for patch in range(16):
        target = pixels(image, patch)
        if norm_pix:
            mean = target.sum() / 48
            target = (target - mean) / torch.sqrt(((target - mean) ** 2).sum() / 47 + 1e-6)
        losses.append(((prediction[patch] - target) ** 2).sum() / 48)
    mask = torch.tensor([float(ids_restore[patch] >= kept) for patch in range(16)], dtype=image.dtype)
    return torch.stack(losses), mask


def mask_of(output: MaeOutput) -> torch.Tensor:
    """1 for the 12 hidden of 16 patches, 0 for the others."""
    return torch.zeros(len(output.hidden), 16).scatter(1, output.hidden, 1.0)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("norm_pix", [True, False])
def test_loss_and_gradients_are_the_papers(norm_pix, qk_norm):
    mae = small_mae(norm_pix, qk_norm)
    images, noise = random_input()
    output = mae(images, noise)
    output.loss.backward()

    state = {name: p.detach().double().requires_grad_(p.requires_grad) for name, p in mae.named_parameters()}
    per_image = [
        mae_by_the_paper(i.double(), n, state, norm_pix, qk_norm, 4) for i, n in zip(images, noise, strict=True)
    ]
    losses, mask = (torch.stack(parts) for parts in zip(*per_image, strict=True))
    loss = (losses * mask).sum() / mask.sum()
    loss.backward()

    assert mask_of(output).tolist() == mask.tolist()
    torch.testing.assert_close(output.loss_per_patch.double(), losses.gather(1, output.hidden), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.loss_per_sample.double(), (losses * mask).sum(1) / 12, rtol=1e-5, atol=0)
    assert output.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in mae.named_parameters():
        want = state[name].grad
        if not parameter.requires_grad:
            assert want is None and name.endswith("pos_embed")
            continue
        tolerance = 1e-5 * max(want.abs().max().item(), 1e-2)
        torch.testing.assert_close(parameter.grad.double(), want, rtol=0, atol=tolerance, msg=name)


def test_equal_noise_is_decided_by_the_index():
    mae = small_mae()
    images, _ = random_input(2)
    output = mae(images, torch.zeros(2, 16, dtype=torch.int64))
    assert mask_of(output).tolist() == [[0.0] * 4 + [1.0] * 12] * 2


def test_the_loss_stays_in_fp32_under_autocast():
    mae = small_mae()
    images, noise = random_input()
    with torch.autocast("cpu", torch.bfloat16):
        output = mae(images, noise)
    assert output.prediction.dtype == torch.bfloat16
    assert output.loss_per_patch.dtype == output.loss.dtype == torch.float32
    targets = mae.targets(images, output.hidden)
    assert targets.dtype == torch.float32
    want = (output.prediction.float() - targets).square().mean(-1)
    assert torch.equal(output.loss_per_patch, want)
    assert output.loss.item() == pytest.approx(mae(images, noise).loss.item(), rel=0.05)


@pytest.mark.parametrize("name", TOTALS)
def test_all_sizes_have_the_parameters_of_the_table(name):
    with torch.device("meta"):
        mae = MaskedAutoencoder(VisionTransformer(SIZES[name], fixed_positions=True))
    total = sum(p.numel() for p in mae.parameters())
    trained = sum(p.numel() for p in mae.parameters() if p.requires_grad)
    assert (total, trained) == TOTALS[name]


def test_names_without_encoder_are_those_of_the_released_weights():
    with torch.device("meta"):
        mae = MaskedAutoencoder(VisionTransformer(SIZES["vit_b16"]))
    names = [name.removeprefix("encoder.") for name in mae.state_dict()]
    assert len(set(names)) == len(names) == 150 + 2 + 6 + 12 * 8
    decoder = {name for name in names if name == "mask_token" or name.startswith("decoder_")}
    assert set(names) - decoder == set(mae.encoder.state_dict())
    parts = {name.split(".")[0] for name in decoder}
    assert parts == {
        "mask_token", "decoder_embed", "decoder_pos_embed", "decoder_blocks", "decoder_norm", "decoder_pred",
    }  # fmt: skip


@pytest.mark.parametrize("norm_pix", [True, False])
def test_a_perfect_prediction_gives_the_picture_back(norm_pix):
    mae = small_mae(norm_pix)
    images, noise = random_input()
    output = mae(images, noise)
    masked, pasted = mae.reconstruct(images, output._replace(prediction=mae.targets(images, output.hidden)))
    torch.testing.assert_close(pasted, images, rtol=0, atol=1e-5)
    hidden = mask_of(output).view(3, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3).bool().expand_as(images)
    assert not masked[hidden].any()
    assert torch.equal(masked[~hidden], images[~hidden])


def test_visible_patches_are_pasted_untouched():
    mae = small_mae()
    images, noise = random_input()
    output = mae(images, noise)
    _, pasted = mae.reconstruct(images, output)
    visible = patchify(images, 4)[mask_of(output) == 0]
    assert torch.equal(patchify(pasted, 4)[mask_of(output) == 0], visible)
    assert not torch.allclose(pasted, images)


def test_patches_go_back_to_the_image():
    images = torch.arange(2 * 3 * 8 * 12.0).view(2, 3, 8, 12)
    patches = patchify(images, 4)
    assert patches[1, 4, 5].item() == images[1, 2, 4, 5].item()  # row 1, column 1 of the grid; pixel 1, blue
    assert torch.equal(unpatchify(patches, 4, (2, 3)), images)


def test_a_mask_that_hides_all_or_nothing_is_refused():
    for ratio in (0.0, 0.99):
        with pytest.raises(ValueError, match="of 16 patches visible"):
            small_mae(mask_ratio=ratio)
