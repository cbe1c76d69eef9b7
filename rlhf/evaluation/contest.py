"""Against which model a run's policies are judged, and by which."""

from __future__ import annotations

from pathlib import Path

from rlhf.config.schema import Config
from rlhf.runtime.distributed import Runtime
from rlhf.runtime.manifest import maker_of


def baseline(start: str | None, runtime: Runtime) -> Path:
    """The SFT model that a policy is compared with: `start`, from which it learnt, where that is
    an SFT model by its manifest, of another run or another size; else this run's main one."""
    own = runtime.run_dir.stage("sft/main")
    other = Path(start or own)
    made = maker_of(other)
    of_sft = made is not None and made[1].stage == "sft"
    return other if of_sft and other.resolve() != own.resolve() else own


def judge_path(config: Config, runtime: Runtime) -> Path | None:
    """The named reward model; else None, for the demo's rubric, where there is a demo; else the
    very reward model that PPO trained on."""
    if config.evaluate.judge is None and config.demo is not None:
        return None
    return Path(config.evaluate.judge or config.ppo.reward_model or runtime.stage_dir("rm"))
