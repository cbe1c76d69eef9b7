"""Reward models that judge: the policies at last, and PPO's answers as it goes."""

from __future__ import annotations

from rlhf.config.schema import TuningSection
from rlhf.models.adapter import Task
from rlhf.models.spec import ModelSpec
from rlhf.planning import traces
from rlhf.planning.cost import Cost
from rlhf.planning.engines import Engine
from rlhf.planning.memory import Part, Phase, Rollout, passing
from rlhf.planning.models import weights
from rlhf.planning.setting import Setting
from rlhf.planning.traces import Learning

JUDGE = "judge"
PLAIN = TuningSection(method="full")


def plain(
    role: str, spec: ModelSpec, task: Task, setting: Setting, quantised: bool = False
) -> Part:
    """A whole model that only reads."""
    width = setting.dtype.itemsize
    return Part(role, "weights", weights(spec, task, None).frozen_bytes(width, quantised))


def judging(setting: Setting) -> list[Phase]:
    """The reward model that judges, when the policies are gone; the demo has its rubric, unless one
    is named."""
    section, config = setting.config.evaluate, setting.config
    if config.demo and not section.judge:
        return []
    spec = setting.any_spec(section.judge) if section.judge else setting.main
    sizes = config.ppo.max_prompt_tokens, section.sampling.max_new_tokens
    scored = _reading(setting, spec, section.batch_size, sizes)
    return [Phase("judging", (plain(JUDGE, spec, "reward", setting), *scored))]


def watching(setting: Setting) -> tuple[Part, ...]:
    """PPO's judge where one is named, whole on every GPU from the first iteration to the last."""
    named = setting.config.ppo.judge
    return (plain(JUDGE, setting.any_spec(named), "reward", setting),) if named else ()


def watching_phases(setting: Setting, at_rest: tuple[Part, ...], work: Rollout) -> list[Phase]:
    """PPO's judge as it reads what one GPU has sampled, beside all that is at rest."""
    named = setting.config.ppo.judge
    if named is None:
        return []
    rows, sizes = min(work.at_once, work.sequences), (work.prompt, work.response)
    scored = _reading(setting, setting.any_spec(named), rows, sizes)
    return [Phase("judging", (*at_rest, *scored))]


def watching_seconds(setting: Setting, work: Rollout) -> float:
    """Of an iteration in which PPO's judge reads what one GPU has sampled."""
    named = setting.config.ppo.judge
    if named is None:
        return 0.0
    spec, length = setting.any_spec(named), work.prompt + work.response
    cost = Cost(spec, PLAIN, 0.0, Engine(), setting.rates, setting.dtype.itemsize)
    return cost.reading(work.sequences * length, length, 0)


def _reading(
    setting: Setting, spec: ModelSpec, rows: int, sizes: tuple[int, int]
) -> tuple[Part, ...]:
    """What a pass over so many rows adds. sizes: tokens of a prompt and of a response."""
    who = Learning(
        spec, "reward", PLAIN, setting.dtype, checkpointing=False, under="ppo", accumulates=False
    )
    return passing(JUDGE, traces.rm_scoring(who, rows, 1, sizes, False))
