"""What lies in a run's aside/: whether it is work, and which of several is the newest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rlhf.runtime.files import BY_HAND, CHECKPOINTS, result_names
from rlhf.runtime.manifest import MANIFEST, read_manifest

BETWEEN = ".exchanged"


def between(kept: Path) -> Path:
    """The name that results have while they change places."""
    return kept.with_name(f".{kept.name}{BETWEEN}")


def made_by_hand(directory: Path) -> bool:
    """Whether a stage directory has what people may have ranked."""
    return any(next(directory.glob(pattern), None) is not None for pattern in BY_HAND)


def holds_work(directory: Path) -> bool:
    """Whether a stage directory, or one of a part of the stage in it, has results, people's
    answers, or a checkpoint to go on from."""
    checkpoints = directory / CHECKPOINTS
    trained = checkpoints.is_dir() and any(checkpoints.iterdir())
    parts = {path.parent.name for path in directory.glob(f"*/{MANIFEST}")}
    results = set(result_names(directory)) - parts
    inside = any(holds_work(directory / part) for part in parts)
    return trained or bool(results) or inside or made_by_hand(directory)


def newest(places: Iterable[Path], aside: Path) -> Path | None:
    """The one of these, in `aside`, whose work was begun last; None of none.

    Of two that were begun in the same second, the further one, aside/3/ before aside/2/, is older.
    """

    def age(place: Path) -> tuple[str, int]:
        manifest = read_manifest(place)
        first = place.relative_to(aside).parts[0]
        return manifest.started if manifest else "", -int(first) if first.isdigit() else 0

    return max(places, key=age, default=None)
