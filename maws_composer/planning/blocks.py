"""Transformer blocks in numbers: parameters, multiply-accumulates, and what a step holds of one image."""

from __future__ import annotations

from dataclasses import dataclass, replace

from maws_composer.planning.flops import block_macs
from maws_composer.planning.parameters import block_parameters

BYTES_PER_GATHERED = {"fp32": 4, "tf32": 4, "amp_bf16": 2}  # of a block's weight, or of what it computes


@dataclass(frozen=True)
class Numbers:
    """How many numbers are held, by what decides their bytes.

    Attributes:
        fp32: in fp32 always: the residual stream, what norms read, losses.
        computed: what matrix products read and write, in bf16 under autocast.
        cast: in bf16, copies that autocast makes of what is there anyway. Without autocast there are none.
    """

    fp32: float = 0
    computed: float = 0
    cast: float = 0

    def __add__(self, other: Numbers) -> Numbers:
        return Numbers(self.fp32 + other.fp32, self.computed + other.computed, self.cast + other.cast)

    def bytes(self, precision: str) -> float:
        cast = self.cast if precision == "amp_bf16" else 0
        return 4 * self.fp32 + BYTES_PER_GATHERED[precision] * self.computed + 2 * cast


@dataclass(frozen=True)
class Blocks:
    """A stack of equal transformer blocks, and how many tokens of one image (or text) go through it.

    A locked one is not trained: it keeps no activations, and is never checkpointed. Blocks that are not ours say how
    many parameters each has; those with `post_norm`, as in BERT, have their norms behind attention and MLP. Where only
    some tokens of the last block are `wanted`, it makes no others.
    """

    depth: int
    width: int
    head_dim: int
    tokens: int
    qk_norm: bool = False
    is_locked: bool = False
    post_norm: bool = False
    own_parameters: int | None = None
    wanted: int | None = None

    @property
    def one_by_one(self) -> list[Blocks]:
        """Each block by itself, in the order of the forward pass."""
        return [replace(self, depth=1, wanted=None)] * (self.depth - 1) + [replace(self, depth=1)]

    @property
    def parameters_per_block(self) -> int:
        if self.own_parameters is not None:
            return self.own_parameters
        return block_parameters(self.width, self.head_dim, self.qk_norm)

    @property
    def macs_per_block(self) -> int:
        if self.own_parameters is not None:  # each is used once for each token
            return self.tokens * self.own_parameters + 2 * self.tokens**2 * self.width
        return block_macs(self.width, self.tokens)

    @property
    def channels(self) -> int:
        return self.tokens * self.width

    @property
    def made(self) -> int:
        """Channels of the tokens that come out."""
        return self.channels if self.wanted is None else self.wanted * self.width

    @property
    def entering(self) -> Numbers:
        """A block's input, which is all that a checkpointed one keeps."""
        return Numbers(fp32=self.channels)

    @property
    def kept(self) -> Numbers:
        """What one block keeps for its backward pass.

        In fp32 what both norms read, mean and deviation of theirs for each token, and attention's logarithm for each
        token and head. As it is computed: what qkv, proj, fc1 and fc2 read, 1 + 1 + 1 + 4 times the channels, queries,
        keys and values, and what GELU reads. QK-norm keeps its outputs and, in fp32, copies of what it reads. Where a
        norm's output goes into three layers and not into one, autocast makes a copy for each. Where not all tokens are
        wanted, queries of those that are get a place of their own.
        """
        tokens_made = self.made // self.width
        of_tokens = 2 * self.tokens + tokens_made * (2 + self.width // self.head_dim)
        queries_and_keys = self.made + self.channels
        of_qk_norm = Numbers(computed=queries_and_keys, cast=2 * queries_and_keys) if self.qk_norm else Numbers()
        copies = 2 * self.channels if self.post_norm else 0
        own_queries = 0 if self.wanted is None else self.made
        computed = 4 * self.channels + 10 * self.made + own_queries
        return Numbers(self.channels + self.made + of_tokens, computed, copies) + of_qk_norm

    @property
    def beginning_backward(self) -> Numbers:
        """What comes on top when its backward pass begins and is most: at fc2.

        The gradient of the block's output, its copy for fc2, and the gradient of what fc2 read, while nothing that was
        kept is free yet; but a norm behind fc2 is through with what it read.
        """
        return Numbers(0 if self.post_norm else self.made, 4 * self.made, self.made)

    @property
    def ending_backward(self) -> Numbers:
        """What there is of it at the end, at qkv: what norm1 and qkv read, and gradients: of qkv's two sides and x."""
        return Numbers(2 * self.channels, 5 * self.channels)

    @property
    def passing(self) -> Numbers:
        """What goes through a block that keeps nothing, where it is most: GELU's two sides, what norm2 made, the
        residual, the block's input, and the first block's, which its caller holds."""
        return Numbers(4 * self.channels, 8 * self.channels)

    @property
    def left_behind(self) -> Numbers:
        """What the norm behind the last block reads, and makes for a layer behind it."""
        return Numbers() if self.post_norm else Numbers(self.made, self.made)
