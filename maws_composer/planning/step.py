"""A training step in slow motion: what a GPU holds beside weights and moments, at each moment at which it may be most.

Memory is a sum at a moment, not a sum of maxima: gradients come as activations go, and weights are gathered block by
block. The moments follow what FSDP2 and autograd do, in order; `planning.dry_run` watches them do it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from maws_composer.planning.blocks import BYTES_PER_GATHERED, Numbers
from maws_composer.planning.workload import Workload, is_checkpointed

BYTES_PER_GRADIENT = 4  # reduced in fp32
_FC2 = 1 / 3  # of a block's parameters
_LOGITS_AT_ONCE = 1 << 25  # as `models.contrastive` has it


class Moment(NamedTuple):
    """What there is, in bytes.

    Attributes:
        when: for a person, to be read behind "most".
        gathered: whole parameters, and gradients that are not reduced yet.
        gradients: shards.
        activations: the batch, what is kept for the backward pass, and what is being computed.
    """

    when: str
    gathered: float
    gradients: float
    activations: float

    @property
    def total(self) -> float:
        return self.gathered + self.gradients + self.activations


class _Block(NamedTuple):
    """One that is trained; bytes of a microbatch."""

    parameters: int
    kept: float  # after the forward pass
    recomputed: float  # on top in its own backward pass
    beginning_backward: float
    ending_backward: float
    left_behind: float  # by its stack, if it is the last one


@dataclass(frozen=True)
class Step:
    """What is asked: see `planning.memory.estimate_memory`."""

    workload: Workload
    precision: str
    microbatch: int
    shard: int
    activation_checkpointing: str | int
    passes: int = 1
    replicate: int = 1
    reshard_after_forward: bool = True

    def moments(self) -> Iterator[Moment]:
        """In the order of the step; those that cannot be the largest are left out."""
        held = self._batch + self._bytes(self.workload.surroundings.outputs)
        last = held + self._bytes(self.workload.surroundings.embedded)
        yield Moment("when the step begins", 2 * self._outside, self._earlier_gradients, self._batch)
        yield from self._locked_blocks()
        yield self._loss()
        yield from self._backward()
        yield Moment("when the last gradients are reduced", self._last_reduced, self._gradients_of_blocks, last)
        yield Moment("in the optimizer's step", 0.0, self._gradients, held)

    @cached_property
    def kept(self) -> float:
        """At the end of the forward pass, for the backward pass."""
        return self._bytes(self.workload.surroundings.embedded) + sum(
            block.kept + block.left_behind for block in self._blocks
        )

    def _locked_blocks(self) -> Iterator[Moment]:
        """Over before anything is kept. What was gathered is there twice: as it came, and as it is computed with."""
        for stack in self.workload.stacks:
            if stack.is_locked:
                gathered = self._outside + 2 * stack.parameters_per_block * self._per_weight
                passing = self._bytes(stack.passing + Numbers(fp32=self.workload.surroundings.sample_bytes))
                yield Moment("in the locked blocks", gathered, self._earlier_gradients, self._batch + passing)

    def _loss(self) -> Moment:
        """All activations are there, copies in bf16 of weights behind the blocks, and the last block's as they came."""
        copies = 2 * self._behind_blocks if self.precision == "amp_bf16" else 0
        as_it_came = self._blocks[-1].parameters * self._per_weight if self._blocks else 0
        gathered = self._outside + copies + self._still_gathered(len(self._blocks)) + as_it_came
        surroundings = self.workload.surroundings
        activations = self._batch + self.kept + self._bytes(surroundings.outputs + surroundings.loss) + self._pairs
        return Moment("at the loss", gathered, self._earlier_gradients, activations)

    def _backward(self) -> Iterator[Moment]:
        """Two moments of each block: when nothing of it is free yet, and when all its gradients are there.

        Beside it the next block's weights are on their way, and the gradients of the one before are being reduced.
        """
        activations = self._batch + self._bytes(self.workload.surroundings.outputs) + self.kept
        reduced, done = 0, 0.0
        outside = self._outside + BYTES_PER_GRADIENT * self._behind_blocks
        for number, block in reversed([*enumerate(self._blocks)]):
            when = f"in the backward pass of block {number + 1} of {len(self._blocks)}"
            activations -= block.left_behind
            gathered = outside + self._still_gathered(number) + self._arriving(number)
            gathered += block.parameters * self._per_weight + reduced * BYTES_PER_GRADIENT
            gradients = max(done, self._earlier_gradients)
            for share, beside in (
                (_FC2, activations + block.recomputed + block.beginning_backward),
                (1, activations - block.kept + block.ending_backward),
            ):
                own = share * block.parameters * self._per_weight
                yield Moment(when, gathered + own, gradients, beside)
            activations -= block.kept
            reduced = block.parameters
            done += reduced * BYTES_PER_GRADIENT / self.shard

    @property
    def _last_reduced(self) -> float:
        """Weights outside of blocks or their gradients' copy, these gradients, and the copy of the first block's."""
        first = self._blocks[0].parameters if self._blocks else 0
        return self._outside + BYTES_PER_GRADIENT * (self._trained_outside + first)

    @cached_property
    def _blocks(self) -> list[_Block]:
        blocks: list[_Block] = []
        for stack in (stack for stack in self.workload.stacks if not stack.is_locked):
            for position, one in enumerate(stack.one_by_one):
                entering, whole = self._bytes(one.entering), self._bytes(one.kept)
                again = is_checkpointed(len(blocks), self.activation_checkpointing)
                block = _Block(
                    parameters=stack.parameters_per_block,
                    kept=entering if again else whole,
                    recomputed=whole - entering if again else 0.0,
                    beginning_backward=self._bytes(one.beginning_backward),
                    ending_backward=self._bytes(one.ending_backward),
                    left_behind=self._bytes(one.left_behind) if position == stack.depth - 1 else 0.0,
                )
                blocks.append(block)
        return blocks

    def _still_gathered(self, blocks: int) -> float:
        """Weights of the first so many blocks, where they stay between forward and backward pass."""
        if self.reshard_after_forward:
            return 0.0
        return sum(block.parameters for block in self._blocks[:blocks]) * self._per_weight

    def _arriving(self, number: int) -> float:
        """What FSDP2 gathers ahead in the backward pass: the block before this one."""
        if number == 0 or not self.reshard_after_forward:
            return 0.0
        return self._blocks[number - 1].parameters * self._per_weight

    @property
    def _per_weight(self) -> int:
        return BYTES_PER_GATHERED[self.precision]

    @property
    def _outside(self) -> float:
        """What lies outside of blocks is gathered in fp32 until the end of the backward pass."""
        return BYTES_PER_GATHERED["fp32"] * self.workload.gathered_outside_blocks(self.shard)

    @property
    def _trained_outside(self) -> int:
        return self.workload.parameters.trainable - self.workload.trained_in_blocks

    @property
    def _behind_blocks(self) -> int:
        return self._trained_outside - self.workload.surroundings.embedding_parameters

    @property
    def _gradients(self) -> float:
        return self.workload.parameters.trainable * BYTES_PER_GRADIENT / self.shard

    @property
    def _gradients_of_blocks(self) -> float:
        of_blocks = self.workload.trained_in_blocks * BYTES_PER_GRADIENT / self.shard
        return max(of_blocks, self._earlier_gradients)

    @property
    def _earlier_gradients(self) -> float:
        """Of earlier passes of the step: the last one finds all of them."""
        return self._gradients if self.passes > 1 else 0.0

    @property
    def _batch(self) -> float:
        """A GPU's share of the batch lies there whole, and that of the next one, which is copied meanwhile. Composer
        copies a microbatch, which is a view of the share, and PyTorch copies what it is a view of."""
        return 3 * self.passes * self.microbatch * self.workload.surroundings.sample_bytes

    @property
    def _pairs(self) -> float:
        """A loss over all pairs of a batch that is one pass: three tensors of logits, five of everybody's embeddings.

        In several passes, the loss is known before there are activations.
        """
        width = self.workload.surroundings.pairs_width
        if width is None or self.passes > 1:
            return 0.0
        everybody = self.microbatch * self.shard * self.replicate
        logits = min(self.microbatch * everybody, max(_LOGITS_AT_ONCE, everybody))
        return 4 * (3 * logits + 5 * everybody * width)

    def _bytes(self, numbers: Numbers) -> float:
        return self.microbatch * numbers.bytes(self.precision)
