"""Seconds of a stage: floating-point operations and bytes over the rates of the hardware.

A token costs 2N operations forward, N without the embedding table, and as many again for the
gradient of the activations and for that of the weights (Kaplan et al. 2020, section 2.1); frozen
weights need only the first, checkpointing a second forward pass of its blocks. Attention over T
tokens adds 2 x layers x hidden x T a token forward, as half of the square is masked.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.config.schema import TuningSection
from rlhf.models.spec import ModelSpec
from rlhf.planning.engines import Engine
from rlhf.planning.memory import Rollout, kv_bytes
from rlhf.planning.models import Weights, weights
from rlhf.planning.rates import Rates

PACKED_TRAFFIC = 0.516 + 2 + 2
"""Bytes moved for a product with a 4-bit weight: it is read, and its 16 bits written and read."""
PER_HOST = 8


STATES = 28
"""Bytes a weight that AdamW moves in float32: it reads weight, gradient and two averages, and
writes all but the gradient."""


@dataclass(frozen=True)
class Cost:
    """How long passes of one model take on one GPU of `engine`. width: bytes of a plain weight.

    again: share of the blocks whose activations are computed again in the backward pass.
    wait: seconds a microbatch and block in which the GPU waits for its program; None: as in the
        Trainer.
    """

    spec: ModelSpec
    tuning: TuningSection
    again: float
    engine: Engine
    rates: Rates
    width: int
    compiled: bool = False
    in_8_bits: bool = False
    wait: float | None = None

    @property
    def counts(self) -> Weights:
        return weights(self.spec, "causal", self.tuning)

    def forward_flops(self, tokens: int, length: int, projected: int | None = None) -> float:
        """Of `tokens` tokens in rows of `length`, of which the head sees `projected`, None: all."""
        attention = 2 * self.spec.layers * self.spec.hidden_size * length
        head = tokens if projected is None else projected
        counts = self.counts
        return float(tokens * (2 * counts.blocks + attention) + head * 2 * counts.rest)

    def reading(self, tokens: int, length: int, projected: int | None = None) -> float:
        """A forward pass."""
        flops = self.forward_flops(tokens, length, projected)
        return flops / (self.rates.product * self.rates.reading[self.compiled])

    def training(
        self, tokens: int, length: int, microbatches: int, projected: int | None = None
    ) -> float:
        """An optimiser step over `tokens` tokens of this GPU, with what goes between GPUs."""
        passes = self.passes(tokens, length, microbatches, projected)
        return passes + self.step() + self.exchange(microbatches)

    def passes(
        self, tokens: int, length: int, microbatches: int, projected: int | None = None
    ) -> float:
        """Forward and backward, and the sums of the microbatches' gradients."""
        once = self.forward_flops(tokens, length, projected)
        forward = once + self.again * self.forward_flops(tokens, length, 0)
        method, rates = self.tuning.method, self.rates
        work = (forward + once * (2 if method == "full" else 1)) / rates.training[self.compiled]
        added = 3 * self.width * self.counts.learning if microbatches > 1 else 0
        wait = rates.wait[method] if self.wait is None else self.wait
        waits = wait * self.spec.layers
        return work / rates.product + microbatches * (waits + added / rates.bandwidth)

    def step(self) -> float:
        """The optimiser's, on the GPU; or in the memory of the host, which its GPUs share."""
        engine, rates, own = self.engine, self.rates, self.counts.learning
        if engine.stage:
            own //= engine.gpus
        if engine.offload:
            return min(engine.gpus, PER_HOST) * own * STATES / rates.host
        return own * rates.step_in_8_bits if self.in_8_bits else own * STATES / rates.bandwidth

    def averaging(self) -> float:
        """A step of a moving average in float32: it reads both, and writes itself."""
        own = self.counts.learning
        if self.engine.stage:
            own //= self.engine.gpus
        return own * 12 / self.rates.bandwidth

    def exchange(self, microbatches: int) -> float:
        """Seconds on the wires in a step, none of it hidden behind work.

        Gradients are summed once a step; under ZeRO-3 all weights are gathered in the forward and
        in the backward pass of every microbatch, with hpZ the second time inside the host.
        """
        engine, own = self.engine, self.counts.learning
        if engine.gpus == 1:
            return 0.0
        share = (engine.gpus - 1) / engine.gpus
        gradients = 2 * share * own * (self.width if engine.stage else 4) / self.wire(engine.gpus)
        again = self.gathering(engine.hpz if engine.hpz > 1 else engine.gpus)
        return gradients + microbatches * (self.gathering(engine.gpus) + again)

    def gathering(self, gpus: int) -> float:
        """Seconds on the wires of so many GPUs in which ZeRO-3 gathers all weights once."""
        engine = self.engine
        if engine.stage < 3:
            return 0.0
        others = (engine.gpus - 1) / engine.gpus
        own = self.counts.learning * self.width
        return others * (self.counts.frozen_bytes(self.width, False) + own) / self.wire(gpus)

    def wire(self, gpus: int) -> float:
        """Bytes a second of one GPU in a collective of so many."""
        return self.rates.inside if gpus <= PER_HOST else self.rates.between

    @property
    def joins(self) -> bool:
        """Whether sampling takes adapters and weights together, as `rlhf.models.joined` does."""
        tuning, whole = self.tuning, not self.engine.stage
        every = tuning.targets == "all-linear" or {*self.spec.lora_targets} <= {*tuning.targets}
        return whole and tuning.method == "lora" and every and not tuning.r % 8 and tuning.r <= 64

    def sampling(self, rollout: Rollout, slots: int, *, adapted: bool = False) -> float:
        """Prompts at the FLOP rate, then for each token the weights, and the keys and values so
        far, at the bandwidth, and the time until a block's kernels have begun.

        adapted: with adapters on the weights.
        """
        counts, rates = self.counts, self.rates
        steps = -(-rollout.sequences // slots) * rollout.response
        packed = self.tuning.method == "qlora"
        blocks = counts.blocks * PACKED_TRAFFIC if packed else counts.blocks * self.width
        filled = rollout.sequences * rollout.response * (rollout.prompt + rollout.response / 2)
        moved = steps * (blocks + counts.rest * self.width)
        moved += filled * kv_bytes(self.spec, self.width) / rates.keys
        beside = rates.of_joined if self.joins else rates.of_adapters
        begun = rates.block + adapted * beside + packed * rates.of_4_bits
        prompts = self.forward_flops(rollout.sequences * rollout.prompt, rollout.prompt)
        waiting = steps * self.spec.layers * begun
        return prompts / rates.product + moved / rates.bandwidth + waiting
