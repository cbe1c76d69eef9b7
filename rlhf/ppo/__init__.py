"""PPO: `train` runs the loop."""

from rlhf.ppo.loop import PPOSummary, Trained, train
from rlhf.ppo.monitors import Stopped
from rlhf.ppo.update import NonFinite

__all__ = ["NonFinite", "PPOSummary", "Stopped", "Trained", "train"]
