"""The phases of PPO: four roles, on one trunk or each with its own weights."""

from __future__ import annotations

from dataclasses import replace

from rlhf.config.schema import PPOSection
from rlhf.models.adapter import Task
from rlhf.models.spread import check_roles
from rlhf.planning import traces
from rlhf.planning.engines import Engine
from rlhf.planning.judging import watching, watching_phases
from rlhf.planning.loading import loading_roles
from rlhf.planning.memory import Part, Phase, Rollout, Tuned, passing
from rlhf.planning.models import weights
from rlhf.planning.setting import Setting
from rlhf.planning.traces import Learning

LEARNERS: dict[str, Task] = {"actor": "causal", "critic": "reward"}
FLOAT32 = 4


def ppo_phases(setting: Setting) -> list[Phase]:
    """Loading, sampling, reading, the two backward passes, a judge's reading, the steps.

    Raises ValueError for what a run refuses.
    """
    check_spread(setting)
    section, spec, width = setting.config.ppo, setting.main, setting.dtype.itemsize
    sizes = (section.max_prompt_tokens, section.sampling.max_new_tokens)
    rows = microbatch(section, setting.gpus)
    read_at_once = scoring_microbatch(section, setting.gpus)
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
            compiled="blocks" if section.compile else None,
        )
        for role, task in LEARNERS.items()
    }
    at_rest, in_update = _resident(setting, gradients=False), _resident(setting, gradients=True)
    whole = _gathered(setting, "actor", "causal", whole=True)
    free = setting.usable - sum(part.size for part in (*at_rest, *whole))
    work = rollout(section, setting.gpus)
    kinds = work.held(spec, width, free)
    passes = {
        "reading": ("actor", traces.reading(learning["actor"], read_at_once, sizes)),
        "actor's update": ("actor", traces.actor_step(learning["actor"], rows, sizes)),
        "critic's update": ("critic", traces.trunk_step(learning["critic"], rows, sum(sizes))),
    }
    texts, longest = mixed_text(setting)
    if texts:  # logits of all tokens that another precedes
        seen = traces.actor_step(
            learning["actor"], min(texts, section.microbatch), (1, longest - 1)
        )
        passes["mixed text"] = ("actor", seen)
    return [
        loading_roles(setting, setting.engine if spreads(setting) else Engine(setting.gpus)),
        Phase("sampling", (*at_rest, *whole, *passing("actor", kinds))),
        *(
            Phase(
                name,
                (
                    *(at_rest if name == "reading" else in_update),
                    *_gathered(setting, role, LEARNERS[role], whole=setting.engine.stage == 2),
                    *passing(role, found),
                ),
            )
            for name, (role, found) in passes.items()
        ),
        *watching_phases(setting, at_rest, work),
        Phase("optimiser step", (*in_update, *_step(setting))),
    ]


def ppo_slots(setting: Setting) -> int:
    """Sequences that a GPU decodes together."""
    held = (
        *_resident(setting, gradients=False),
        *_gathered(setting, "actor", "causal", whole=True),
    )
    free = setting.usable - sum(part.size for part in held)
    work = rollout(setting.config.ppo, setting.gpus)
    return work.slots(setting.main, setting.dtype.itemsize, free)


def spreads(setting: Setting) -> bool:
    """Whether models are spread over the GPUs (`rlhf.models.spread`): by ZeRO-2 the two that learn,
    by ZeRO-3 all four. A shared trunk never is, and by no other stage, nor in one process."""
    separate = setting.config.ppo.roles == "separate"
    return separate and setting.gpus > 1 and setting.engine.stage in (2, 3)


def check_spread(setting: Setting) -> None:
    """Raises ValueError for what a run refuses on so many GPUs, and of models that are spread."""
    engine = setting.engine
    check_roles(setting.config.ppo, setting.gpus, engine.stage, engine.offload)


def microbatch(section: PPOSection, gpus: int) -> int:
    """Responses in a backward pass of one GPU, all as long as may be."""
    most = section.microbatch
    if section.microbatch_tokens is not None:
        longest = section.max_prompt_tokens + section.sampling.max_new_tokens
        most = max(1, section.microbatch_tokens // longest)
    return min(most, -(-section.minibatch // gpus))


def mixed_text(setting: Setting) -> tuple[int, int]:
    """Texts of `ppo.pretraining` that one GPU takes in at a step of the actor's, `microbatch` at a
    time, and tokens of each, all as long as may be."""
    section = setting.config.ppo.pretraining
    if section is None:
        return 0, 0
    return -(-section.rows // setting.gpus), min(section.max_length, setting.main.context)


def scoring_microbatch(section: PPOSection, gpus: int) -> int:
    """Responses in a pass of one GPU without a gradient."""
    return section.scoring_microbatch or microbatch(section, gpus)


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
    """Each of them whole, as data parallelism has it."""
    section, width = setting.config.ppo, setting.dtype.itemsize
    optimisers = {"actor": section.actor_optimiser, "critic": section.critic_optimiser}
    return {
        role: Tuned.of(
            setting.main,
            task,
            section.tuning,
            optimisers[role],
            Engine(1 if spreads(setting) else setting.gpus),
            width=width,
            master=FLOAT32,
            copy=width if width < FLOAT32 else 0,
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


def _resident(setting: Setting, *, gradients: bool) -> tuple[Part, ...]:
    """What every GPU holds in all phases; gradients from the first backward pass to the step."""
    tuned = _learners(setting)
    learners = [
        part for role, one in tuned.items() for part in one.resident(role, gradients=gradients)
    ]
    if setting.config.ppo.ema_decay is not None:
        average = FLOAT32 * tuned["actor"].counts.learning
        learners.append(Part("actor's average", "weights", average))
    others = _others(setting)
    if setting.engine.stage == 3:  # ZeRO-2 leaves whole what does not learn
        others = _shares(setting, others)
    return (*others, *watching(setting), *_shares(setting, tuple(learners)))


def _gathered(setting: Setting, role: str, task: Task, *, whole: bool) -> tuple[Part, ...]:
    """Weights that are made whole for a pass: all of a model, or two layers at a time."""
    if not spreads(setting):
        return ()
    counts = weights(setting.main, task, None)
    some = counts.plain if whole else 2 * counts.blocks // setting.main.layers
    return (Part(role, "weights", some * setting.dtype.itemsize),)


def _shares(setting: Setting, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    if not spreads(setting):
        return parts
    return tuple(replace(part, size=-(-part.size // setting.gpus)) for part in parts)


def _step(setting: Setting) -> tuple[Part, ...]:
    """One learner after the other; the actor's is the larger."""
    held = _learners(setting)["actor"].held
    return _shares(setting, (Part("actor", "optimiser", held.step),))
