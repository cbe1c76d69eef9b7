from __future__ import annotations

from html import unescape
from pathlib import Path

import pytest

from rlhf.apps.annotate.notice import noted
from rlhf.apps.dashboard import samples, views
from rlhf.apps.dashboard.runs import Run, find_runs, signature
from rlhf.apps.dashboard.words import translator
from rlhf.evaluation import compare
from rlhf.ppo.monitors import MEANINGS
from tests.apps.dashboard.worlds import make_run

ENGLISH, CHINESE = translator("en"), translator("zh")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return find_runs([make_run(tmp_path / "a")])[0]


def test_a_command_of_the_overview_can_be_copied(tmp_path: Path) -> None:
    root = make_run(tmp_path / "a b")
    manifest = root / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"running"', '"waiting"'))
    html = views.overview(find_runs([root]), ENGLISH)
    assert unescape(html).count(f"<code>rlhf annotate '{root}/ppo'</code>") == 1


def test_the_overview_tells_what_rings_and_what_waits(run: Run) -> None:
    html = views.overview([run], ENGLISH)
    assert "7 / 10" in html and "PPO, round 2" in html and "PPO, round 1" in html
    assert "<code>kl</code>" in html and "Waiting for rankings" not in html
    manifest = run.root / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"running"', '"waiting"'))
    html = views.overview([run], ENGLISH)
    assert f"<code>rlhf annotate {run.root}/ppo</code>" in html and "<code>kl</code>" not in html
    before = signature([run])
    with noted(run.root / "ppo", "http://127.0.0.1:7861/"):
        html = views.overview([run], ENGLISH)
        assert '<a href="http://127.0.0.1:7861/"' in html and "rlhf annotate" not in html
        assert signature([run]) != before


def test_texts_are_text(run: Run) -> None:
    source = samples.sources(run)[0]
    html = views.texts(samples.page(run, source, 1)[0], ENGLISH)
    assert "How do I &lt;b&gt;begin&lt;/b&gt;?" in html and "<b>" not in html


def test_a_reward_model_has_a_report_before_the_run_has_one(run: Run) -> None:
    assert views.reports(run) == ["rm/pairs.jsonl"]
    html = views.report(run, "rm/pairs.jsonl")
    assert html.startswith('<iframe sandbox="allow-scripts" srcdoc="') and "75.0" in html
    (run.root / "report").mkdir()
    (run.root / "report/index.html").write_text('<p title="x">whole</p>')
    assert views.reports(run)[0] == "report/index.html"
    assert "&lt;p title=&quot;x&quot;&gt;whole" in views.report(run, "report/index.html")


def test_chinese(run: Run) -> None:
    html = views.overview([run], CHINESE) + views.alarms(views.rules_of(run, "ppo"), CHINESE)
    html += views.comparison([run], CHINESE) + views.talk([], CHINESE)
    for word in ("第 2 轮", "进行中", "策略偏离参考模型过远", "回滚", "留出对", "在下面提问"):
        assert word in html, word


def test_advice_and_measures_are_in_chinese(run: Run) -> None:
    for said in MEANINGS.values():
        assert CHINESE(said) != said
    make_run(run.root.with_name("b"))
    runs = find_runs([run.root.parent])
    html = views.comparison(runs, CHINESE)
    assert " 至 " in html and " to " not in html and " to " in views.comparison(runs, ENGLISH)
    for name, *_ in compare.lines(compare.compare([one.root for one in runs]).table):
        assert CHINESE(name) != name, name


def test_a_config_of_another_version_has_no_rules(run: Run) -> None:
    config = run.root / "config.yaml"
    config.write_text("ppo: {monitors: {gone: {high: 1}}}")
    assert views.rules_of(run, "ppo") == []
    assert "No PPO stage" in views.alarms([], ENGLISH)
