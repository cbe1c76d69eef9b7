"""What a run carries from one iteration to the next, and how a checkpoint keeps it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from rlhf.config.schema import PPOSection
from rlhf.models.roles import Roles
from rlhf.ppo.controllers import (
    KLController,
    ScoreNormaliser,
    ScoreStatistics,
    kl_controller,
)
from rlhf.ppo.learner import Learner
from rlhf.runtime import checkpoint


@dataclass
class Progress:
    """Counters of a run. The lists have an entry an iteration, for the summary."""

    iteration: int = 0
    flops: float = 0.0
    scores: list[float] = field(default_factory=list)
    kls: list[float] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)

    def add(self, row: dict[str, float], flops: float) -> None:
        """Count one more iteration with these metrics."""
        self.iteration += 1
        self.flops += flops
        self.scores.append(row["score"])
        self.kls.append(row["kl"])
        self.lengths.append(row["response_length"])


@dataclass(frozen=True)
class TrainingState:
    """Everything that changes. Prompt order and sampling need no entry: they follow from the seed
    and the iteration (`rlhf.ppo.batching`)."""

    roles: Roles
    actor: Learner
    critic: Learner
    kl: KLController
    normaliser: ScoreNormaliser
    progress: Progress

    @classmethod
    def start(
        cls, roles: Roles, section: PPOSection, score_statistics: ScoreStatistics
    ) -> TrainingState:
        """The state before the first iteration.

        Raises:
            ValueError: scores are to be normalised by statistics that there are not.
        """
        per_iteration = section.epochs * (section.episodes // section.minibatch)
        critic_steps = per_iteration * section.iterations
        actor_steps = critic_steps - per_iteration * min(section.critic_warmup, section.iterations)
        return cls(
            roles=roles,
            actor=Learner(
                roles.actor_parameters(), section.actor_optimiser, actor_steps, section.ema_decay
            ),
            critic=Learner(roles.critic_parameters(), section.critic_optimiser, critic_steps),
            kl=kl_controller(section.kl, section.iterations),
            normaliser=ScoreNormaliser(section.score, score_statistics),
            progress=Progress(),
        )

    def averaged_actor(self) -> dict[str, Tensor] | None:
        """The moving average of the actor's weights, by name, when one is kept."""
        if self.actor.average is None:
            return None
        return dict(zip(self.roles.trainable("actor"), self.actor.average, strict=True))

    def save(self, directory: Path, keep: int) -> None:
        """Write a checkpoint of the iterations done so far."""
        state: dict[str, Any] = {
            "actor": self.roles.actor_state(),
            "critic": self.roles.critic_state(),
            "actor_learner": self.actor.state(),
            "critic_learner": self.critic.state(),
            "kl": self.kl.state(),
            "normaliser": self.normaliser.state(),
            "progress": asdict(self.progress),
            "rng": checkpoint.rng_state(),
        }
        checkpoint.save(directory, self.progress.iteration, state, keep=keep)

    def resume(self, directory: Path) -> TrainingState:
        """The state of the newest checkpoint, or this one when there is none."""
        newest = checkpoint.latest(directory)
        if newest is None:
            return self
        state = checkpoint.load(newest)
        self.roles.load_actor_state(state["actor"])
        self.roles.load_critic_state(state["critic"])
        self.actor.load_state(state["actor_learner"])
        self.critic.load_state(state["critic_learner"])
        self.kl.load_state(state["kl"])
        self.normaliser.load_state(state["normaliser"])
        checkpoint.set_rng_state(state["rng"])
        progress = Progress(**state["progress"])
        return TrainingState(
            self.roles, self.actor, self.critic, self.kl, self.normaliser, progress
        )
