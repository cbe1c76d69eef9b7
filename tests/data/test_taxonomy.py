from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf.data.taxonomy import Taxonomy, balanced_sample

SHIPPED = Path(__file__).parents[2] / "data_schemas" / "taxonomy.yaml"


def leaf(identity: str) -> dict[str, Any]:
    return {"id": identity, "zh": "甲", "en": "a", "example_zh": "问？", "example_en": "Why?"}


def node(identity: str, *children: dict[str, Any]) -> dict[str, Any]:
    return {"id": identity, "zh": "甲", "en": "a", "children": list(children)}


def write(path: Path, *primaries: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"categories": list(primaries)}), encoding="utf-8")
    return path


@pytest.fixture
def taxonomy(tmp_path: Path) -> Taxonomy:
    life = node("life", node("food", leaf("recipes"), leaf("diets")), node("home", leaf("repairs")))
    work = node("work", node("code", leaf("debugging")))
    return Taxonomy.load(write(tmp_path / "taxonomy.yaml", life, work))


def test_the_shipped_taxonomy_has_the_size_that_the_report_states() -> None:
    primary, secondary, tertiary = (len(level) for level in Taxonomy.load(SHIPPED).levels)
    assert primary == 6 and secondary == 30 and tertiary >= 200


def test_lookup_by_id_and_by_path(taxonomy: Taxonomy) -> None:
    assert taxonomy.path_of("diets") == ("life", "food", "diets")
    assert taxonomy.find(("life", "home")).id == "home"
    with pytest.raises(ValueError, match="'food'"):
        taxonomy.path_of("food")
    for wrong in ((), ("life", "code"), ("life", "food", "diets", "more")):
        with pytest.raises(ValueError, match="no category"):
            taxonomy.find(wrong)


def test_coverage_counts_three_levels(taxonomy: Taxonomy) -> None:
    recipes, repairs = ("life", "food", "recipes"), ("life", "home", "repairs")
    coverage = taxonomy.coverage([recipes, recipes, repairs, ("life",), (), ("life", "x", "y")])
    assert coverage.counts[0] == {("life",): 4, ("work",): 0}
    assert coverage.counts[1] == {("life", "food"): 2, ("life", "home"): 1, ("work", "code"): 0}
    assert [coverage.counts[2][path] for path in (recipes, repairs)] == [2, 1]
    assert coverage.untagged == 1
    assert coverage.unknown == {("life", "x", "y"): 1}
    assert coverage.gaps(1) == [("work",)]
    assert coverage.gaps(3) == [("life", "food", "diets"), ("work", "code", "debugging")]


def test_balance_is_the_entropy_over_its_maximum(taxonomy: Taxonomy) -> None:
    recipes, debugging = ("life", "food", "recipes"), ("work", "code", "debugging")
    coverage = taxonomy.coverage([recipes] * 3 + [debugging] + [("life",)] * 2)
    # Shares 5/6 and 1/6 of 2 categories: 0.6500 bits. 3/4 and 1/4 of 4 categories: 0.8113 bits / 2.
    assert coverage.balance(1) == pytest.approx(0.6500, abs=1e-4)
    assert coverage.balance(3) == pytest.approx(0.4056, abs=1e-4)
    assert (coverage.tagged(1), coverage.tagged(3)) == (6, 4)
    even = taxonomy.coverage(list(taxonomy.levels[2]))
    assert even.balance(3) == pytest.approx(1) and even.balance(1) < 1
    assert taxonomy.coverage([recipes]).balance(2) == 0 == taxonomy.coverage([]).balance(2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("categories: [", "not YAML"),
        ("categories: []", "categories"),
        ("topics: []", "categories: Field required"),
        (yaml.safe_dump({"categories": [node("a", node("b", leaf("Big Id")))]}), "children.0.id"),
        (
            yaml.safe_dump({"categories": [node("a", node("b", leaf("c"), leaf("c")))]}),
            "2 categories of one level have the id 'c'",
        ),
        (
            yaml.safe_dump({"categories": [node(p, node("b", leaf(p))) for p in ("x", "y")]}),
            "the id 'b'",
        ),
        (yaml.safe_dump([node("x", node("b", leaf("c")))]), "a bare list; put `categories:` above"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        Taxonomy.load(path)
    assert str(path) in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="absent.yaml: No such file"):
        Taxonomy.load(tmp_path / "absent.yaml")


PATHS = [("a", "x", "1")] * 9000 + [("b", "y", "2")] * 900 + [("c", "z", "3")] * 100


def shares(level: int, temperature: float, count: int = 1000) -> Counter[str]:
    chosen = balanced_sample(PATHS, count, level=level, temperature=temperature, seed=3)
    assert len(set(chosen)) == count
    return Counter(PATHS[i][0] for i in chosen)


def test_temperature_one_keeps_the_shares() -> None:
    counts = shares(3, 1)
    assert counts["a"] == pytest.approx(900, abs=30) and counts["b"] == pytest.approx(90, abs=30)


def test_higher_temperature_follows_the_root() -> None:
    # Square roots of 9000, 900, 100 are 94.9, 30, 10: of the first 100 draws 70, 22 and 7.
    counts = shares(1, 2, count=100)
    assert counts["a"] == pytest.approx(70, abs=15) and counts["b"] == pytest.approx(22, abs=12)


def test_infinite_temperature_is_even_until_a_category_runs_dry() -> None:
    assert min(shares(2, math.inf, count=90).values()) >= 18
    counts = shares(2, math.inf)
    assert counts["c"] >= 98 and counts["a"] == pytest.approx(counts["b"], abs=120)


def test_sampling_everything_and_the_seed() -> None:
    paths = PATHS[:5]
    assert balanced_sample(paths, 5, level=1, temperature=1, seed=0) == [0, 1, 2, 3, 4]
    first, again, other = (
        balanced_sample(PATHS, 50, level=1, temperature=2, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other
