"""What a page calls the categories of prompts, in two languages."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Self

from rlhf.config.load import safe_yaml
from rlhf.config.paths import resource
from rlhf.data.taxonomy import FILE, Taxonomy
from rlhf.runtime.lineage import run_of
from rlhf.runtime.run_dir import RunDir

CONFIG = "config.yaml"
SEPARATOR = " / "
"""Between the ids of a path, as in the report's tables, and between names."""


class CategoryNames:
    """chinese: of every path that was asked for, by its English name."""

    def __init__(self, taxonomy: str | Path | None = None) -> None:
        """taxonomy: a file of the user's own. Where it is gone, ids stay as they are."""
        self.chinese: dict[str, str] = {}
        self._names: dict[str, tuple[str, str]] = {}
        with suppress(ValueError):
            self._read(Taxonomy.load(taxonomy or resource("data_schemas/taxonomy.yaml")))

    @classmethod
    def near(cls, place: Path) -> Self:
        """By the taxonomy of the run that a file or folder lies in."""
        run = run_of(place)
        return cls.of_run(run) if run else cls()

    @classmethod
    def of_run(cls, run: Path) -> Self:
        """By the run's copy of its own taxonomy; runs before there was one have only the path."""
        if (kept := RunDir(run).data / FILE).is_file():
            return cls(kept)
        with suppress(OSError, ValueError, AttributeError):
            return cls(safe_yaml((run / CONFIG).read_bytes()).get("data", {}).get("taxonomy"))
        return cls()

    def english(self, path: str) -> str:
        """safety / privacy -> Safety / Privacy; what no taxonomy knows as it is."""
        if path not in self._names:
            return path
        english, chinese = self._names[path]
        self.chinese[english] = chinese
        return english

    def _read(self, taxonomy: Taxonomy) -> None:
        for path in (path for level in taxonomy.levels for path in level):
            found = [taxonomy.find(path[:depth]) for depth in range(1, len(path) + 1)]
            english = SEPARATOR.join(category.en for category in found)
            chinese = SEPARATOR.join(category.zh for category in found)
            self._names[SEPARATOR.join(path)] = english, chinese
