"""PPO: `train` runs the loop.

What is named here is imported once it is asked for: `rlhf ui` reads the alarms and trains nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf.ppo.loop import PPOSummary, Trained, train
    from rlhf.ppo.monitors import Stopped
    from rlhf.ppo.update import NonFinite

__all__ = ["NonFinite", "PPOSummary", "Stopped", "Trained", "train"]
_MODULES = {"NonFinite": "update", "Stopped": "monitors"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'loop')}"), name)
