"""The taxonomy of prompts: primary, secondary and tertiary categories (Baichuan 2, 4.2)."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

from rlhf.config.load import safe_yaml
from rlhf.data.jsonl import Part, Text, in_one_line
from rlhf.runtime.files import write_text

LEVELS = 3
FILE = "taxonomy.yaml"
"""A run's copy of the user's own taxonomy, in the run's data folder."""
CategoryPath = tuple[str, ...]
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Category(Part):
    """What every level has: an id in snake_case and its names."""

    id: Identifier
    zh: Text
    en: Text


class Tertiary(Category):
    """A category that prompts are tagged with, and one such prompt in each language.

    keywords: words of such prompts, in both languages, for tagging.
    """

    example_zh: Text
    example_en: Text
    keywords: str = ""


class Secondary(Category):
    """A group of tertiary categories."""

    children: Annotated[tuple[Tertiary, ...], Field(min_length=1)]


class Primary(Category):
    """A group of secondary categories."""

    children: Annotated[tuple[Secondary, ...], Field(min_length=1)]


class _File(Part):
    categories: Annotated[tuple[Primary, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Coverage:
    """How prompts spread over a taxonomy.

    counts: one dict a level, from path to prompts; categories without a prompt are in it with 0.
    untagged: prompts without a path. unknown: paths that the taxonomy does not have.
    """

    counts: tuple[dict[CategoryPath, int], ...]
    untagged: int
    unknown: dict[CategoryPath, int]

    def gaps(self, level: int) -> list[CategoryPath]:
        """Paths of a level (1 to 3) that no prompt has."""
        return [path for path, count in self.counts[level - 1].items() if count == 0]

    def tagged(self, level: int) -> int:
        """Prompts counted at a level (1 to 3); one whose path ends above it is not."""
        return sum(self.counts[level - 1].values())

    def balance(self, level: int) -> float:
        """Entropy of the shares at a level over its maximum (Pielou's evenness, 1966).

        1 when all categories have equally many prompts, 0 when one has all or nothing is counted.
        """
        counts, total = self.counts[level - 1], self.tagged(level)
        shares = [count / total for count in counts.values() if count]
        if len(shares) < 2:
            return float(len(shares) == len(counts) == 1)
        return -sum(share * math.log(share) for share in shares) / math.log(len(counts))


@dataclass(frozen=True)
class Taxonomy:
    """All categories, one dict a level, from path to category, in the order of the file.

    The path of a tertiary category is (primary id, secondary id, its id).
    """

    levels: tuple[dict[CategoryPath, Category], ...]

    @classmethod
    def load(cls, path: str | Path) -> Taxonomy:
        """Reads a taxonomy file, such as data_schemas/taxonomy.yaml.

        Raises:
            ValueError: no such file, not YAML, a missing or mistyped field, a repeated id.
        """
        try:
            content = safe_yaml(Path(path).read_text(encoding="utf-8"))
            if isinstance(content, list):
                raise ValueError(f"{path}: a bare list; put `categories:` above it")
            file = _File.model_validate(content)
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}; name a taxonomy file") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
        except ValidationError as error:
            raise ValueError(f"{path}: {in_one_line(error)}") from None
        walked = list(_walk(file.categories, ()))
        uses = Counter((len(place), place[-1]) for place, _ in walked)
        for (_, identifier), count in uses.items():
            if count > 1:
                raise ValueError(
                    f"{path}: {count} categories of one level have the id {identifier!r}"
                )
        levels = [{p: c for p, c in walked if len(p) == level + 1} for level in range(LEVELS)]
        return cls(tuple(levels))

    def path_of(self, tertiary_id: str) -> CategoryPath:
        """Path of a tertiary category.

        Raises:
            ValueError: there is no such category.
        """
        for path in self.levels[-1]:
            if path[-1] == tertiary_id:
                return path
        raise ValueError(f"the taxonomy has no tertiary category {tertiary_id!r}")

    def find(self, path: Sequence[str]) -> Category:
        """The category at a path of any level.

        Raises:
            ValueError: there is none.
        """
        if 0 < len(path) <= LEVELS and tuple(path) in self.levels[len(path) - 1]:
            return self.levels[len(path) - 1][tuple(path)]
        raise ValueError(f"the taxonomy has no category {' / '.join(path)!r}")

    def coverage(self, paths: Iterable[CategoryPath]) -> Coverage:
        """Counts tagged prompts in every category of the three levels.

        Args:
            paths: one a prompt; a path that ends early counts in the levels that it has.
        """
        counts: tuple[dict[CategoryPath, int], ...] = tuple(
            dict.fromkeys(level, 0) for level in self.levels
        )
        seen = Counter(paths)
        untagged = seen.pop((), 0)
        unknown = {}
        for path, count in seen.items():
            if len(path) > LEVELS or path not in counts[len(path) - 1]:
                unknown[path] = count
                continue
            for depth in range(len(path)):
                counts[depth][path[: depth + 1]] += count
        return Coverage(counts, untagged, unknown)


def keep_taxonomy(own: str | None, directory: Path) -> None:
    """Copy a run's own taxonomy into its data folder: its reports name categories by it, from
    whatever folder they are made.

    own: None where the run has none of its own. Raises ValueError when the file is no taxonomy.
    """
    if own is None:
        (directory / FILE).unlink(missing_ok=True)
    else:
        Taxonomy.load(own)
        write_text(directory / FILE, Path(own).read_text(encoding="utf-8"))


def balanced_sample(
    paths: Sequence[CategoryPath], count: int, *, level: int, temperature: float, seed: int
) -> list[int]:
    """Indices of a sample without replacement whose categories are evened out.

    A category with n prompts is drawn in proportion to n ** (1 / temperature): 1 keeps the shares,
    math.inf draws every category alike, and one whose prompts are all taken drops out. The smallest
    exponential waiting times are such a sample (Efraimidis and Spirakis 2006).

    Args:
        paths: one a prompt. count: how many to draw, at most len(paths).
        level: 1 to 3, the level that is balanced.
    """
    assert 1 <= level <= LEVELS and temperature >= 1 and count <= len(paths)
    sizes = Counter(path[:level] for path in paths)
    random = Random(seed)
    weights = (sizes[path[:level]] ** (1 / temperature - 1) for path in paths)
    waits = [-math.log(1 - random.random()) / weight for weight in weights]
    return sorted(heapq.nsmallest(count, range(len(paths)), key=waits.__getitem__))


def _walk(
    categories: Sequence[Category], parent: CategoryPath
) -> Iterable[tuple[CategoryPath, Category]]:
    for category in categories:
        path = (*parent, category.id)
        yield path, category
        if isinstance(category, Primary | Secondary):
            yield from _walk(category.children, path)
