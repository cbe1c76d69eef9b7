"""Talking to a run's models: loaded when they are first asked, gone when others are or for long
nothing is.

So are the libraries that run them: importing these takes as long as the rest of the page.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from threading import Lock, Timer
from typing import TYPE_CHECKING

import torch

from rlhf.apps.dashboard.runs import Run
from rlhf.data.records import Message

if TYPE_CHECKING:
    from rlhf.apps.chat.command import Sampling, Speaker
    from rlhf.apps.chat.conversation import Conversation

PLACES = ("sft/*", "dpo", "ppo/actor", "ppo/actor_ema")
"""Where language models lie in a run, and in each of its rounds."""
SFT, PPO = "sft/main", "ppo/actor"
"""The two that are asked at first."""
PATIENCE = 60.0
"""Seconds to wait for another's answer."""
IDLE = 600.0
"""Seconds without a question after which the models are let go."""


def checkpoints(run: Run) -> dict[str, Path]:
    """The run's whole language models, in the order in which they were made, by their place."""
    places = [f"{before}{place}" for _, before in run.rounds() for place in PLACES]
    places = [*dict.fromkeys(["sft/*", *places, "evaluate/sft_extra"])]
    folders = [folder for place in places for folder in sorted(run.root.glob(place))]
    return {
        folder.relative_to(run.root).as_posix(): folder
        for folder in folders
        if _weights(folder) and not _trains(folder)
    }


def first_two(runs: Sequence[Sequence[str]]) -> tuple[str | None, str | None]:
    """SFT's and PPO's last, to be asked side by side: of the last run that has both, else of all.

    runs: the names of each run's models, the run in which something happened last at the end.
    """
    whole = [names for names in runs if _named(names, SFT) and _named(names, PPO)]
    names = whole[-1] if whole else [name for names in runs for name in names]
    sft = next(iter(_named(names, SFT) or names), None)
    others = [name for name in names if name != sft]
    return sft, next(reversed(_named(others, PPO) or others), None)


class Speakers:
    """Models that can be asked; only those asked last are in memory."""

    def __init__(self, idle: float = IDLE) -> None:
        self._idle = idle
        self._loaded: dict[Path, Speaker] = {}
        self._lock = Lock()
        self.timer: Timer | None = None

    @property
    def loaded(self) -> list[Path]:
        return list(self._loaded)

    def ask(
        self, models: Sequence[Path], talks: Sequence[list[Message]], question: str, how: Sampling
    ) -> Iterator[list[list[Message]]]:
        """Each model's talk with the answer so far, again and again as one of them grows.

        Args:
            models: checkpoints; several may be the same.
            talks: what was said before, user and assistant in turn.

        Raises:
            ValueError: a checkpoint that is not whole, no room for a prompt, or somebody else's
                question is being answered.
        """
        # One at a time, since another question may ask for other models.
        if not self._lock.acquire(timeout=PATIENCE):
            raise ValueError("the models are answering somebody else; ask again in a moment")
        try:
            asked, answers = Message(role="user", content=question), [""] * len(models)
            yield [_grown(said, asked, "") for said in talks]  # loading may take long
            self._keep(models)
            streams = [
                self._begun(model, said, how).ask(question)
                for model, said in zip(models, talks, strict=True)
            ]
            for pieces in zip_longest(*streams):
                for place, piece in enumerate(pieces):
                    answers[place] += piece.text if piece is not None and not piece.aside else ""
                yield [
                    _grown(said, asked, answer) for said, answer in zip(talks, answers, strict=True)
                ]
        finally:
            self._lock.release()
            self._watch()

    def release(self) -> None:
        """Let all models go."""
        with self._lock:
            self._keep([])

    def _begun(self, model: Path, said: Sequence[Message], how: Sampling) -> Conversation:
        """A conversation that goes on from what was said."""
        if model not in self._loaded:
            from rlhf.apps.chat.command import load_speaker
            from rlhf.models.source import find_source
            from rlhf.runtime.quiet import quiet

            with quiet():
                self._loaded[model] = load_speaker(find_source(model))
        conversation = self._loaded[model].conversation(how)
        conversation.rounds = list(said)
        conversation.check()
        return conversation

    def _keep(self, models: Sequence[Path]) -> None:
        if leaving := self._loaded.keys() - set(models):
            for model in leaving:
                del self._loaded[model]
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _watch(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = Timer(self._idle, self.release)
        self.timer.daemon = True
        self.timer.start()


def _named(names: Sequence[str], end: str) -> list[str]:
    return [name for name in names if name.endswith(end)]


def _grown(said: Sequence[Message], asked: Message, answer: str) -> list[Message]:
    return [*said, asked, Message(role="assistant", content=answer or "…")]


def _weights(folder: Path) -> bool:
    """Whether a language model or an adapter of one is there."""
    try:
        if (folder / "adapter_config.json").is_file():
            adapter = json.loads((folder / "adapter_config.json").read_text("utf-8"))
            return bool(adapter.get("task_type") == "CAUSAL_LM")
        architectures = json.loads((folder / "config.json").read_text("utf-8"))["architectures"]
    except (OSError, ValueError, KeyError):
        return False
    return any("CausalLM" in str(name) for name in architectures)


def _trains(folder: Path) -> bool:
    """Whether the stage that makes this model is at work, so that its files may be half there."""
    try:
        owner = folder if (folder / "manifest.json").is_file() else folder.parent
        status = json.loads((owner / "manifest.json").read_text("utf-8"))["status"]
    except (OSError, ValueError, KeyError):
        return False
    return bool(status == "running")
