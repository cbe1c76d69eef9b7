from __future__ import annotations

from pathlib import Path

from rlhf.evaluation.category_names import CategoryNames
from rlhf.evaluation.margin_report import build
from rlhf.evaluation.page import render_rm
from tests.evaluation.rows import make_row

OWN = """
categories:
  - {id: food, zh: 食物, en: Food, children: [{id: soup, zh: 汤, en: Soup, children: [
      {id: hot, zh: 热汤, en: Hot soup, example_zh: 一, example_en: one}]}]}
"""


def test_a_path_is_named_in_both_languages() -> None:
    names = CategoryNames()
    assert names.chinese == {}
    assert names.english("everyday_life") == "Everyday life"
    assert names.english("everyday_life / food_and_drink") == "Everyday life / Food and drink"
    assert names.english("no_such_category") == "no_such_category"
    assert names.chinese == {
        "Everyday life": "日常生活",
        "Everyday life / Food and drink": "日常生活 / 饮食",
    }


def test_a_taxonomy_of_one_s_own(tmp_path: Path) -> None:
    path = tmp_path / "taxonomy.yaml"
    path.write_text(OWN, encoding="utf-8")
    assert CategoryNames(str(path)).english("food / soup") == "Food / Soup"
    assert CategoryNames(str(path)).english("everyday_life") == "everyday_life"
    (tmp_path / "run/rm").mkdir(parents=True)
    (tmp_path / "run/config.yaml").write_text(f"data: {{taxonomy: {path}}}\n", encoding="utf-8")
    (tmp_path / "run/manifest.json").write_text('{"stages": {}}', encoding="utf-8")
    assert CategoryNames.near(tmp_path / "run/rm/pairs.jsonl").english("food") == "Food"
    assert CategoryNames.near(tmp_path / "rm/pairs.jsonl").english("food") == "food"
    path.unlink()
    assert CategoryNames(str(path)).english("food / soup") == "food / soup"


def test_a_run_s_copy_is_read_wherever_the_report_is_made(tmp_path: Path) -> None:
    """The path that the config has is another folder's, and the file there gone."""
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    (run / "config.yaml").write_text("data: {taxonomy: mine/own.yaml}\n", encoding="utf-8")
    (run / "manifest.json").write_text('{"stages": {}}', encoding="utf-8")
    assert CategoryNames.of_run(run).english("food / soup") == "food / soup"
    (run / "data/taxonomy.yaml").write_text(OWN, encoding="utf-8")
    for names in (CategoryNames.of_run(run), CategoryNames.near(run / "rm/pairs.jsonl")):
        assert names.english("food / soup") == "Food / Soup"
        assert names.english("everyday_life") == "everyday_life"


def test_a_page_names_its_categories() -> None:
    rows = [make_row(i, 1.0, category=("safety", "no_such")) for i in range(3)]
    page = render_rm("rm", build(rows), [], Path("pairs.jsonl"))
    assert "<th>Safety and honesty</th>" in page and "<th>safety / no_such</th>" in page
    assert 'Object.assign(CHINESE, {"Safety and honesty": "' in page
