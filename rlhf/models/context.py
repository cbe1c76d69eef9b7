"""Whether answers fit into what models read, said before any stage has run."""

from __future__ import annotations

from collections.abc import Callable, Collection

from rlhf.config.schema import Config
from rlhf.models.chat import prompt_room
from rlhf.models.spec import ModelSpec


def check_answers(
    config: Config, stages: Collection[str], spec: Callable[[str], ModelSpec | None]
) -> None:
    """Raises ValueError, with the key, where one of the stages samples answers that leave their
    model no room for a prompt.

    spec: of a checkpoint by its path; None where nothing is known of it yet. Then it is taken for
    the main model, and left out where that is not known either.
    """
    for stage, paths in _answering(config).items():
        sampling = getattr(config, stage).sampling
        for path in paths if stage in stages else ():
            found = spec(path) or spec(config.main.path)
            if found is None:
                continue
            try:
                prompt_room(found.context, sampling.max_new_tokens)
            except ValueError as error:
                raise ValueError(f"{stage}.sampling.{error}") from None


def _answering(config: Config) -> dict[str, list[str]]:
    """The checkpoints that answer in each stage, or those that they are trained from."""
    main = config.main.path
    trained = [entry.path for entry in config.models.values()]
    sources = [entry.path for entry in config.collect.models] or trained
    sources += [main] if config.rounds > 1 else []
    return {
        "collect": [] if config.annotation.source == "file" else sources,
        "ppo": [config.ppo.actor or main],
        "evaluate": [main, config.ppo.actor or main],
    }
