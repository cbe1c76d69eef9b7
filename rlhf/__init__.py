"""RLHF for the Baichuan family: supervised fine-tuning, a reward model, then PPO."""

__version__ = "0.1.0"
