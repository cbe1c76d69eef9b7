"""What an iteration costs in floating-point operations, by rule and not by measurement."""

from __future__ import annotations

from rlhf.config.schema import PPOSection


def iteration_flops(
    parameters: int, tokens: int, section: PPOSection, *, train_actor: bool
) -> float:
    """FLOPs of one iteration.

    The rule, a token of prompt or response (Kaplan et al. 2020, sec. 2.1): 2N a forward pass, 6N a
    training step of full weights, 4N one of adapters on a frozen trunk, whose weights need no
    gradient. Attention, padding and recomputed activations are not counted. An iteration is one
    forward pass while sampling, four to read the responses (actor, reference, critic, reward
    model, each taken to be of the actor's size), and a training step of critic and, after its
    warm-up, actor in every epoch.

    Args:
        parameters: N, those of the actor without its embedding table, which multiplies nothing.
        tokens: real tokens of the rollout, prompts included.
        section: epochs and tuning.
        train_actor: False while the critic warms up.

    Returns:
        Floating-point operations.
    """
    per_step = 6 if section.tuning.method == "full" else 4
    learners = 2 if train_actor else 1
    return float(parameters * tokens * (2 + 4 * 2 + section.epochs * learners * per_step))
