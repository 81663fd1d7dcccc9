"""Every attention kernel computes the same attention, compiled or not."""

import importlib.util
import math
import shutil
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from maws_composer.models.attention import Attention, Block, attend, set_attention_kernel
from maws_composer.models.mae import MaskedAutoencoder
from maws_composer.models.sizes import SIZES, DecoderSize, ViTSize
from maws_composer.models.vit import VisionTransformer

gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


def by_the_formula(q, k, v):
    """softmax(q k^T / sqrt(d)) v, one head of one image at a time."""
    out = torch.empty_like(v)
    for image in range(len(q)):
        for head in range(q.shape[2]):
            one_q, one_k, one_v = (x[image, :, head] for x in (q, k, v))
            out[image, :, head] = torch.softmax(one_q @ one_k.T / math.sqrt(q.shape[-1]), dim=-1) @ one_v
    return out


def random_qkv(head_dim, device="cpu", dtype=torch.float32, tokens=50):
    """Queries, keys and values as slices of one tensor, as a projection leaves them."""
    generator = torch.Generator().manual_seed(head_dim)
    qkv = torch.randn(2, tokens, 3, 4, head_dim, generator=generator)
    return qkv.to(device, dtype).requires_grad_()


def attend_with_gradient(qkv, function):
    weight = torch.linspace(-1, 1, qkv[:, :, 0].numel(), device=qkv.device).view_as(qkv[:, :, 0])
    out = function(*qkv.unbind(2))
    (gradient,) = torch.autograd.grad((out.float() * weight).sum(), qkv)
    return out, gradient


def assert_same(got, want, tolerance):
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=0, atol=tolerance * other.abs().max().item())


@pytest.mark.parametrize("head_dim", [32, 64, 80, 128])
@pytest.mark.parametrize("kernel", ["sdpa", "math"])
def test_kernels_on_the_cpu_agree_with_the_formula(kernel, head_dim):
    qkv = random_qkv(head_dim)
    want = attend_with_gradient(qkv, by_the_formula)
    assert_same(attend_with_gradient(qkv, partial(attend, kernel=kernel)), want, 1e-5)


@gpu
@needs_gpu
@pytest.mark.parametrize("head_dim", [32, 64, 80, 128])
@pytest.mark.parametrize("tokens", [50, 65, 197, 257])
@pytest.mark.parametrize(
    ("kernel", "dtype", "tolerance"),
    [
        ("sdpa_flash", torch.bfloat16, 2e-2),
        ("sdpa_cudnn", torch.bfloat16, 2e-2),
        ("sdpa_efficient", torch.bfloat16, 2e-2),
        ("sdpa_efficient", torch.float32, 1e-5),
        ("flash_attn", torch.bfloat16, 2e-2),
    ],
)
def test_kernels_on_the_gpu_agree_with_math(kernel, dtype, tolerance, tokens, head_dim, monkeypatch):
    if kernel == "flash_attn" and importlib.util.find_spec("flash_attn") is None:
        pytest.skip("flash-attn is not installed")
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    qkv = random_qkv(head_dim, "cuda", dtype, tokens)
    exact = qkv.detach().float().requires_grad_()
    want = attend_with_gradient(exact, partial(attend, kernel="math"))
    assert_same(attend_with_gradient(qkv, partial(attend, kernel=kernel)), want, tolerance)


@pytest.mark.parametrize("kernel", ["sdpa", "math"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_block_under_autocast_keeps_close_to_full_precision(kernel, qk_norm):
    torch.manual_seed(0)
    block, tokens = Block(64, 2, qk_norm), torch.randn(2, 17, 64)
    block.attn.kernel = kernel
    with torch.autocast("cpu", torch.bfloat16):
        low = block(tokens)
    torch.testing.assert_close(low, block(tokens), rtol=0, atol=0.05)


def test_qk_norm_bounds_the_logits():
    torch.manual_seed(0)
    tokens = torch.randn(2, 17, 64)
    plain, normed = Attention(64, 2), Attention(64, 2, qk_norm=True)
    normed.load_state_dict(plain.state_dict(), strict=False)
    assert set(normed.state_dict()) - set(plain.state_dict()) == {
        "q_norm.weight", "q_norm.bias", "k_norm.weight", "k_norm.bias",
    }  # fmt: skip
    before = normed(tokens)
    normed.qkv.weight.data[:128] *= 1000  # queries and keys only
    normed.qkv.bias.data[:128] *= 1000
    torch.testing.assert_close(normed(tokens), before, rtol=0, atol=1e-4)
    plain.qkv.weight.data[:128] *= 1000
    assert not torch.allclose(plain(tokens), before, atol=1e-2)


def compiled_equals_eager(block, backend, recompute, device="cpu"):
    torch._dynamo.reset()
    tokens = torch.randn(2, 17, 160, device=device, requires_grad=True)
    forward = partial(checkpoint, block.forward, use_reentrant=False) if recompute else block.forward
    results = []
    for function in (block.forward, torch.compile(forward, fullgraph=True, backend=backend)):
        out = function(tokens)
        gradients = torch.autograd.grad(out.square().sum(), [tokens, *block.parameters()])
        results.append([out, *gradients])
    assert_same(results[1], results[0], 1e-5)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("kernel", ["sdpa", "math"])
def test_a_block_is_captured_whole_by_the_compiler(kernel, recompute):
    torch.manual_seed(0)
    block = Block(160, 2, qk_norm=True)
    block.attn.kernel = kernel
    compiled_equals_eager(block, "aot_eager", recompute)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["sdpa", "math"])
def test_a_compiled_block_equals_the_eager_one(kernel):
    torch.manual_seed(0)
    block = Block(160, 2)
    block.attn.kernel = kernel
    compiled_equals_eager(block, "inductor", recompute=False)


@gpu
@needs_gpu
@pytest.mark.parametrize("kernel", ["sdpa_efficient", "math"])
def test_a_compiled_block_equals_the_eager_one_on_the_gpu(kernel, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    torch.manual_seed(0)
    block = Block(160, 2).cuda()
    block.attn.kernel = kernel
    compiled_equals_eager(block, "inductor", recompute=False, device="cuda")


def test_encoder_and_decoder_may_get_different_kernels():
    with torch.device("meta"):
        encoder = VisionTransformer(ViTSize(width=160, depth=2, heads=2, patch_size=6), 48)
        mae = MaskedAutoencoder(encoder, DecoderSize(width=72, depth=2, heads=2))
    choices = set_attention_kernel(mae, "auto", "cuda", torch.bfloat16)
    assert [choice.log_line for choice in choices] == [
        "attention: sdpa_flash (auto: fastest that fits)",
        "attention: math (auto: head dimension 36 is not a multiple of 8)",
    ]
    assert {block.attn.kernel for block in mae.encoder.blocks} == {"sdpa_flash"}
    assert {block.attn.kernel for block in mae.decoder_blocks} == {"math"}


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed")
def test_a_missing_flash_attn_is_said_before_training():
    with torch.device("meta"):
        model = VisionTransformer(SIZES["vit_micro"], 48)
    with pytest.raises(ValueError) as error:
        set_attention_kernel(model, "flash_attn", "cuda", torch.bfloat16)
    assert str(error.value) == (
        "attention kernel flash_attn needs the package flash-attn, which is not installed: "
        "pip install 'maws_composer[flash-attn]', or use auto"
    )
