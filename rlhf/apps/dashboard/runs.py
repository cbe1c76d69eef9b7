"""Run directories as they are at this moment: also while a stage writes, also after a crash."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from rlhf.apps.annotate.notice import NOTE
from rlhf.config.load import safe_yaml
from rlhf.evaluation.capabilities import FOLDER as CAPABILITIES
from rlhf.runtime.holder import is_there
from rlhf.runtime.manifest import MANIFEST
from rlhf.runtime.metrics import SAMPLES
from rlhf.runtime.run_dir import STAGES

Row = dict[str, Any]
CONFIG = "config.yaml"
DEEPEST = 3
"""Folders between a folder of runs and a run: an ablation's lie in NAME/VARIANT/seed-0."""
WATCHED = (
    "metrics.jsonl",
    SAMPLES,
    "judge.jsonl",
    "pairs.jsonl",
    "eval_rankings.jsonl",
)
"""Files of a stage that the page shows something of."""


@dataclass(frozen=True)
class Stage:
    """A stage that has begun. Times in seconds and UTC, memory in GiB; None is not known.

    key: its path in the run directory, such as "sft/main" or "rounds/1/ppo"; kind: of STAGES,
    or the benchmarks around them.
    status: running, waiting (for rankings), done, or stopped: nobody works on it any more.
    step, total: of its optimiser steps or iterations.
    """

    key: str
    kind: str
    status: str
    step: int | None
    total: int | None
    seconds: float | None
    memory: float | None
    started: str | None


@dataclass(frozen=True)
class Run:
    """A run directory. name: what it is called among those on show."""

    name: str
    root: Path

    @property
    def config(self) -> Row:
        """Empty where config.yaml cannot be read."""
        try:
            found = safe_yaml((self.root / CONFIG).read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return found if isinstance(found, dict) else {}

    def stages(self) -> list[Stage]:
        """In the order in which they began."""
        config, alive = self.config, is_alive(self.root)
        listed = _json(self.root / MANIFEST).get("stages")
        found = [
            _stage(self, key, entry, config, alive)
            for key, entry in (listed if isinstance(listed, dict) else {}).items()
            if isinstance(entry, dict)
        ]
        return sorted(found, key=lambda stage: stage.started or "")

    def rows(self, key: str, file: str = "metrics.jsonl") -> list[Row]:
        """Of a stage's metrics.jsonl or another file of lines."""
        return rows_of(self.root / key / file)

    def rounds(self) -> list[tuple[int, str]]:
        """Numbers of the rounds, and what stands before the keys of their stages."""
        earlier = sorted(
            int(path.name) for path in (self.root / "rounds").glob("[0-9]*") if path.name.isdigit()
        )
        return [*((number, f"rounds/{number}/") for number in earlier), (len(earlier) + 1, "")]


def find_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs that are named, and those in the folders that are named.

    Raises:
        ValueError: nothing is there, or no run is in it.
    """
    roots: dict[Path, Path] = {}
    for path in paths:
        found = [path] if (path / CONFIG).is_file() else list(_inside(path))
        if not path.is_dir():
            raise ValueError(f"{path}: no such folder; name a run directory, such as runs/tiny")
        if not found:
            raise ValueError(
                f"{path}: no run in it (none has a {CONFIG}); start one with rlhf run CONFIG"
            )
        roots |= {root.resolve(): root for root in found}
    return [Run(name, root) for name, root in zip(_names(list(roots)), roots.values(), strict=True)]


def newest(runs: Sequence[Run], count: int) -> list[Run]:
    """So many of them, those in which something happened last, in the given order."""
    kept = by_age(runs)[-count:]
    return [run for run in runs if run in kept]


def by_age(runs: Sequence[Run]) -> list[Run]:
    """The one in which something happened last at the end."""
    return sorted(runs, key=lambda run: _changed(run.root))


def signature(runs: Sequence[Run]) -> str:
    """Other text whenever there is something new to be seen in one of the runs."""
    seen = []
    for run in runs:
        stages = run.stages()
        files = [run.root / CONFIG, run.root / MANIFEST, run.root / "report" / "report.json"]
        files += [run.root / stage.key / name for stage in stages for name in WATCHED]
        files += [run.root / stage.key / NOTE for stage in stages]
        times = [file.stat().st_mtime_ns for file in files if file.exists()]
        seen.append((str(run.root), times, [stage.status for stage in stages]))
    return sha256(repr(seen).encode()).hexdigest()


def is_alive(root: Path) -> bool:
    """Whether the process that last took the run is there; one on another host is thought to be."""
    try:
        return is_there((root / ".lock").read_text("utf-8").strip())
    except (OSError, ValueError):
        return False


def rows_of(path: Path) -> list[Row]:
    """The objects in a file of JSON lines, without a line that is half written or damaged."""
    try:
        status = path.stat()
    except OSError:
        return []
    return _rows(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _rows(path: Path, changed: int, size: int) -> list[Row]:
    try:
        lines = path.read_text("utf-8", errors="replace").split("\n")
    except OSError:
        return []
    parsed = map(_object, lines)
    return [row for row in parsed if row is not None]


def _object(line: str) -> Row | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _json(path: Path) -> Row:
    try:
        return _object(path.read_text("utf-8")) or {}
    except (OSError, ValueError):
        return {}


def _changed(root: Path) -> float:
    files = [file for file in (root / MANIFEST, root / CONFIG) if file.exists()]
    return max((file.stat().st_mtime for file in files), default=0.0)


def _inside(folder: Path) -> Iterator[Path]:
    for depth in range(1, DEEPEST + 1):
        yield from sorted(file.parent for file in folder.glob("/".join(["*"] * depth + [CONFIG])))


def _names(roots: Sequence[Path]) -> list[str]:
    """Each path from the deepest folder on that all of them are in."""
    common = os.path.commonpath([root.parent for root in roots]) if roots else ""
    return [root.relative_to(common).as_posix() for root in roots]


def _stage(run: Run, key: str, entry: Row, config: Row, alive: bool) -> Stage:
    parts = key.split("/")
    kind = next((part for part in parts if part in (*STAGES, CAPABILITIES)), parts[0])
    rows = run.rows(key)
    last = max((int(row["step"]) for row in rows if isinstance(row.get("step"), int)), default=None)
    total = config.get(kind, {}).get("iterations") if kind == "ppo" else None
    status = entry.get("status", "running")
    if kind == "ppo" and last is not None:
        last += 1  # the first iteration has the number 0
    return Stage(
        key=key,
        kind=kind,
        status="stopped" if status == "running" and not alive else status,
        step=last,
        total=total,
        seconds=entry.get("seconds") or None,
        memory=entry.get("peak_memory_gib") or None,
        started=entry.get("started"),
    )
