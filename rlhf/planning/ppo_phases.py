"""The phases of PPO: four roles, on one trunk or each with its own weights."""

from __future__ import annotations

from rlhf.config.schema import PPOSection
from rlhf.models.adapter import Task
from rlhf.planning import traces
from rlhf.planning.engines import Engine
from rlhf.planning.memory import Part, Phase, Rollout, Tuned, passing
from rlhf.planning.models import weights
from rlhf.planning.setting import Setting
from rlhf.planning.traces import Learning

LEARNERS: dict[str, Task] = {"actor": "causal", "critic": "reward"}
FLOAT32 = 4


def ppo_phases(setting: Setting) -> list[Phase]:
    """Sampling, reading, the two backward passes, the steps."""
    section, spec, width = setting.config.ppo, setting.main, setting.dtype.itemsize
    tuned = _learners(setting)
    others = _others(setting)
    sizes = (section.max_prompt_tokens, section.sampling.max_new_tokens)
    rows = microbatch(section, setting.gpus)
    accumulates = section.minibatch // setting.gpus > rows
    learning = {
        role: Learning(
            spec,
            task,
            section.tuning,
            setting.dtype,
            checkpointing=section.gradient_checkpointing,
            under="ppo",
            accumulates=accumulates,
        )
        for role, task in LEARNERS.items()
    }
    at_rest = (*others, *_resident(tuned, gradients=False))
    in_update = (*others, *_resident(tuned, gradients=True))
    kinds = rollout(section, setting.gpus).held(spec, width, _free(setting, at_rest))
    return [
        Phase("sampling", (*at_rest, *passing("actor", kinds))),
        Phase(
            "reading", (*at_rest, *passing("actor", traces.reading(learning["actor"], rows, sizes)))
        ),
        Phase(
            "actor's update",
            (*in_update, *passing("actor", traces.actor_step(learning["actor"], rows, sizes))),
        ),
        Phase(
            "critic's update",
            (
                *in_update,
                *passing("critic", traces.trunk_step(learning["critic"], rows, sum(sizes))),
            ),
        ),
        Phase("optimiser step", (*in_update, *_step(tuned))),
    ]


def ppo_slots(setting: Setting) -> int:
    """Sequences that a GPU decodes together."""
    at_rest = (*_others(setting), *_resident(_learners(setting), gradients=False))
    work = rollout(setting.config.ppo, setting.gpus)
    return work.slots(setting.main, setting.dtype.itemsize, _free(setting, at_rest))


def _free(setting: Setting, held: tuple[Part, ...]) -> float:
    return setting.usable - sum(part.size for part in held)


def microbatch(section: PPOSection, gpus: int) -> int:
    """Responses in a backward pass of one GPU, all as long as may be."""
    most = section.microbatch
    if section.microbatch_tokens is not None:
        longest = section.max_prompt_tokens + section.sampling.max_new_tokens
        most = max(1, section.microbatch_tokens // longest)
    return min(most, -(-section.minibatch // gpus))


def rollout(section: PPOSection, gpus: int) -> Rollout:
    """What one GPU samples in an iteration."""
    return Rollout(
        -(-section.episodes // gpus),
        section.rollout_microbatch,
        section.max_prompt_tokens,
        section.sampling.max_new_tokens,
        fast=section.engine == "fast",
    )


def _learners(setting: Setting) -> dict[str, Tuned]:
    """Data parallel in several processes."""
    section, width = setting.config.ppo, setting.dtype.itemsize
    adapters = section.tuning.method != "full"
    optimisers = {"actor": section.actor_optimiser, "critic": section.critic_optimiser}
    return {
        role: Tuned.of(
            setting.main,
            task,
            section.tuning,
            optimisers[role],
            Engine(setting.gpus),
            width=width,
            master=FLOAT32 if adapters else width,
            on_shared_trunk=section.roles == "shared",
        )
        for role, task in LEARNERS.items()
    }


def _others(setting: Setting) -> tuple[Part, ...]:
    """All that does not learn: the trunk where it is shared, the reference, the reward model."""
    section, spec, width = setting.config.ppo, setting.main, setting.dtype.itemsize
    packed = section.tuning.method == "qlora"
    if section.roles == "separate":
        sizes = {
            role: weights(spec, task, None).frozen_bytes(width, packed)
            for role, task in (("reference", "causal"), ("reward model", "reward"))
        }
    else:
        adapters = weights(spec, "reward", setting.config.rm.tuning).adapters
        trunk = weights(spec, "causal", None).frozen_bytes(width, packed)
        sizes = {"trunk": trunk, "reward model": adapters * FLOAT32}
    return tuple(Part(role, "weights", size) for role, size in sizes.items())


def _resident(tuned: dict[str, Tuned], *, gradients: bool) -> tuple[Part, ...]:
    return tuple(
        part for role, one in tuned.items() for part in one.resident(role, gradients=gradients)
    )


def _step(tuned: dict[str, Tuned]) -> tuple[Part, ...]:
    """One learner after the other; the actor's is the larger."""
    return (Part("actor", "optimiser", tuned["actor"].held.step),)
