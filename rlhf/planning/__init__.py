"""Memory and time of a run before it starts: `plan` a config."""

from rlhf.planning.planner import Plan, plan

__all__ = ["Plan", "plan"]
