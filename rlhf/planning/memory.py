"""Memory of a stage, phase by phase: what stands in one GPU at the height of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlhf.config.schema import OptimiserSection, TuningSection
from rlhf.generation.room import fitting
from rlhf.generation.slots import FILL_TOKENS
from rlhf.models.adapter import Task
from rlhf.models.spec import ModelSpec
from rlhf.planning.allocations import Kinds
from rlhf.planning.engines import Engine, Held, Learner
from rlhf.planning.models import Weights, weights

KINDS = ("weights", "gradients", "optimiser", "kv cache", "activations", "logits")


@dataclass(frozen=True)
class Part:
    """Bytes of one kind that one role holds. Activations and logits are the passing model's."""

    role: str
    kind: str
    size: int


@dataclass(frozen=True)
class Phase:
    """parts: what one GPU holds at the phase's height. host: bytes in the computer's memory."""

    name: str
    parts: tuple[Part, ...]
    host: int = 0

    @property
    def peak(self) -> int:
        """Bytes."""
        return sum(part.size for part in self.parts)

    def of(self, kind: str) -> int:
        """Bytes of a kind, over all roles."""
        return sum(part.size for part in self.parts if part.kind == kind)


@dataclass(frozen=True)
class Tuned:
    """A model that learns: which, how, and what each GPU holds of it."""

    spec: ModelSpec
    counts: Weights
    held: Held

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        task: Task,
        tuning: TuningSection,
        optimiser: OptimiserSection,
        engine: Engine,
        *,
        width: int,
        master: int,
        copy: int = 0,
        on_shared_trunk: bool = False,
    ) -> Tuned:
        """width: bytes of a plain frozen weight. master: of one that learns, as it is kept.
        copy: of the one that computes in its place, if another does.
        on_shared_trunk: its frozen weights are somebody else's."""
        counts = weights(spec, task, tuning)
        learner = Learner(
            frozen=0 if on_shared_trunk else counts.frozen_bytes(width, tuning.method == "qlora"),
            learning=counts.learning,
            width=master,
            optimiser=optimiser,
            layer=2 * width * (counts.blocks // spec.layers),
            copy=copy,
        )
        return cls(spec, counts, engine.held(learner))

    def resident(self, role: str, *, gradients: bool) -> tuple[Part, ...]:
        """What stays over all passes; gradients from the first microbatch to the step."""
        parts = [
            Part(role, "weights", self.held.weights),
            Part(role, "optimiser", self.held.optimiser),
        ]
        if gradients:
            parts.append(Part(role, "gradients", self.held.gradients))
        return tuple(parts)

    def stepping(self, role: str) -> tuple[Part, ...]:
        """At the optimiser's step."""
        return (
            *self.resident(role, gradients=True),
            Part(role, "optimiser", self.held.step),
        )


def passing(role: str, kinds: Kinds) -> tuple[Part, ...]:
    """What a pass adds while it lasts."""
    return tuple(Part(role, kind, size) for kind, size in kinds.items() if size)


def kv_bytes(spec: ModelSpec, width: int) -> int:
    """Keys and values of one token: two vectors a layer. 7B in bfloat16: 524,288."""
    return 2 * spec.layers * spec.hidden_size * width


@dataclass(frozen=True)
class Rollout:
    """Sampling: `sequences` in all, at most `at_once` of them together, prompt and response tokens.

    fast: by the slot engine; else by transformers' generate, which is asked for all logits.
    """

    sequences: int
    at_once: int
    prompt: int
    response: int
    fast: bool = True

    def slots(self, spec: ModelSpec, width: int, free: float) -> int:
        """How many are decoded together where so many bytes are free."""
        size = kv_bytes(spec, width) * (self.prompt + self.response)
        wanted = min(self.at_once, self.sequences)
        return fitting(wanted, free, size) if self.fast else wanted

    def held(self, spec: ModelSpec, width: int, free: float) -> Mapping[str, int]:
        """Bytes by kind, on top of the weights. free: bytes left beside them.

        Prompts are read in pieces: of a token stand query, key, value, four states of the residual
        stream and two of the feed-forward layer, as its compiled halves leave them.
        """
        slots = self.slots(spec, width, free)
        tokens = min(FILL_TOKENS, slots * self.prompt) if self.fast else slots * self.prompt
        states = tokens * width * (7 * spec.hidden_size + 2 * spec.intermediate_size)
        # As the head gives them, in float32, and as probabilities before and after a division.
        logits = slots * spec.vocab_size * (width + 3 * 4)
        if not self.fast:
            logits += self.response * slots * spec.vocab_size * 4
        cache = slots * (self.prompt + self.response) * kv_bytes(spec, width)
        return {"kv cache": cache, "activations": states, "logits": logits}
