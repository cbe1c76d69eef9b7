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
from rlhf.ppo.measure import START
from rlhf.runtime import checkpoint
from rlhf.runtime.distributed import barrier, is_main_process, once


@dataclass
class Progress:
    """Counters of a run. The lists have an entry an iteration, for the summary.

    start: the first iteration's metrics that later ones are compared with. best: the checkpoint to
    roll back to, and best_quality what its actor came to.
    """

    iteration: int = 0
    flops: float = 0.0
    scores: list[float] = field(default_factory=list)
    kls: list[float] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)
    start: dict[str, float] = field(default_factory=dict)
    best: int = 0
    best_quality: float | None = None
    rollbacks: int = 0

    def add(self, row: dict[str, float], flops: float) -> None:
        """Count one more iteration with these metrics."""
        self.iteration += 1
        self.flops += flops
        self.scores.append(row["score"])
        self.kls.append(row["kl"])
        self.lengths.append(row["response_length"])
        self.start = self.start or {name: row[name] for name in START if name in row}

    def rate(self, row: dict[str, float]) -> None:
        """Note the checkpoint that the iteration just added began at, if it is the best so far: by
        the judge, or by the score where there is none."""
        quality = row.get("judge", row["score"])
        if self.best_quality is None or quality > self.best_quality:
            self.best, self.best_quality = self.iteration - 1, quality


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
        """Write a checkpoint of the iterations done so far; the main process does.

        It says nothing of the number of processes: any other number can go on from it.
        """
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
        done, best = self.progress.iteration, self.progress.best
        if is_main_process():
            checkpoint.save(directory, done, state, keep=keep, spare=best)

    def resume(self, directory: Path) -> TrainingState:
        """The state of the newest checkpoint, or this one when there is none."""
        newest = once(lambda: checkpoint.latest(directory))
        return self if newest is None else self._load(newest)

    def keep_a_best(self, directory: Path, keep: int) -> None:
        """Where the best checkpoint is not there, as at the start of a run, or of its rollbacks
        in a config changed on the way, this state is the best for now."""
        if not once(lambda: checkpoint.path_of(directory, self.progress.best).is_dir()):
            self.progress.best, self.progress.best_quality = self.progress.iteration, None
            self.save(directory, keep)

    def roll_back(self, directory: Path, keep: int, step_factor: float) -> TrainingState:
        """The state of the best checkpoint, with smaller steps, saved in that one's place."""
        before = self.progress
        state = self._load(once(lambda: checkpoint.return_to(directory, before.best)))
        barrier()  # or the main process would replace what another still reads
        # It was found to be the best after it had been written, and the one before it is gone.
        state.progress.best, state.progress.best_quality = before.best, before.best_quality
        state.progress.rollbacks += 1
        for learner in (state.actor, state.critic):
            learner.scale *= step_factor
        state.save(directory, keep)
        return state

    def _load(self, path: Path) -> TrainingState:
        state = checkpoint.load(path)
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
