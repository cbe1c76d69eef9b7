"""Against which model a run's policies are judged, and by which."""

from __future__ import annotations

from pathlib import Path

from rlhf.config.schema import Config
from rlhf.runtime.distributed import Runtime
from rlhf.runtime.manifest import maker_of

PREFERENCES = ("dpo", "ppo")
"""Stages that make a policy of an SFT model."""


def baseline(config: Config, runtime: Runtime) -> Path:
    """The SFT model that PPO started from, whichever run's; this run's where PPO started from a
    policy, such as DPO's."""
    own = runtime.run_dir.stage("sft/main")
    start = Path(config.ppo.actor or own)
    made = maker_of(start)
    return own if made is not None and made[1].stage in PREFERENCES else start


def judge_path(config: Config, runtime: Runtime) -> Path | None:
    """The named reward model; else None, for the demo's rubric, where there is a demo; else the
    very reward model that PPO trained on."""
    if config.evaluate.judge is None and config.demo is not None:
        return None
    return Path(config.evaluate.judge or config.ppo.reward_model or runtime.stage_dir("rm"))
