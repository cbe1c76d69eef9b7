from __future__ import annotations

from pathlib import Path

from rlhf.apps.dashboard.curves import MOST_POINTS, PALETTE, charts, colours, kinds
from rlhf.apps.dashboard.runs import find_runs
from rlhf.apps.dashboard.words import translator
from tests.apps.dashboard.worlds import make_run, write_lines


def test_points_are_means_over_the_window(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    drawn = {one.metric: one for one in charts(find_runs([tmp_path]), "sft", 2, False)}
    assert [(p.step, p.value) for p in drawn["loss"].points] == [
        (1, 4.0),
        (2, 3.0),
        (3, (2 + 4 / 3) / 2),
        (4, (4 / 3 + 1) / 2),
    ]
    assert [(p.step, p.value) for p in drawn["eval_loss"].points] == [(0, 4.0), (4, 1.0)]
    assert list(drawn) == ["loss", "eval_loss", "learning_rate"]


def test_iterations_count_from_one_as_in_the_log(tmp_path: Path) -> None:
    root = make_run(tmp_path / "a")
    rows = [{"step": i, "score": 1.0, "alarms": 0} for i in (0, 1)]
    write_lines(root / "ppo/metrics.jsonl", rows)
    drawn = {one.metric: one for one in charts(find_runs([root]), "ppo", 1, True)}
    for metric in ("score", "alarms"):
        steps = [p.step for p in drawn[metric].points if p.line == "round 2"]
        assert steps == [1, 2], metric


def test_runs_and_rounds_are_overlaid_and_named_apart(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    score = charts(find_runs([tmp_path]), "ppo", 1, False)[0]
    assert list(dict.fromkeys(p.line for p in score.points)) == ["round 1", "round 2"]
    make_run(tmp_path / "b")
    runs = find_runs([tmp_path])
    drawn = charts(runs, "ppo", 1, False, translator("zh"))[0]
    assert {p.line for p in drawn.points} == {
        f"{run}, 第 {number} 轮" for run in "ab" for number in (1, 2)
    }
    assert {p.line for p in charts(runs, "sft", 1, False)[0].points} == {"a", "b"}


def test_unknown_metrics_are_drawn_on_request_and_gaps_are_left_out(tmp_path: Path) -> None:
    root = make_run(tmp_path / "a")
    rows = [{"step": 0, "new_thing": None}, {"step": 1, "new_thing": 2.0}]
    write_lines(root / "rm/metrics.jsonl", rows)
    runs = find_runs([root])
    assert "new_thing" not in {one.metric for one in charts(runs, "rm", 1, False)}
    last = charts(runs, "rm", 1, True)[-1]
    assert (last.title, [(p.step, p.value) for p in last.points]) == ("New thing", [(1, 2.0)])


def test_long_curves_are_thinned_and_keep_their_end(tmp_path: Path) -> None:
    root = make_run(tmp_path / "a")
    rows = [{"step": i, "loss": 1.0} for i in range(10 * MOST_POINTS + 1)]
    write_lines(root / "sft/main/metrics.jsonl", rows)
    points = charts(find_runs([root]), "sft", 1, False)[0].points
    assert len(points) <= MOST_POINTS and points[-1].step == 10 * MOST_POINTS


def test_the_newest_kind_comes_last(tmp_path: Path) -> None:
    (run,) = find_runs([make_run(tmp_path / "a")])
    assert kinds(run.stages()) == ["sft", "rm", "ppo"]
    assert kinds([one for one in run.stages() if one.key in ("sft/main", "rounds/1/ppo")]) == [
        "sft",
        "ppo",
    ]


def test_every_line_has_a_colour_of_its_own() -> None:
    found = colours([str(number) for number in range(40)])
    assert len(set(found.values())) == 40 and [*found.values()][: len(PALETTE)] == [*PALETTE]
    assert all(len(colour) == 7 and int(colour[1:], 16) >= 0 for colour in found.values())


def test_lines_of_a_single_point_are_points(tmp_path: Path) -> None:
    runs = find_runs([make_run(tmp_path / "a")])
    assert [one.mark for one in charts(runs, "rm", 1, False)] == ["point"]
    assert {one.mark for one in charts(runs, "sft", 1, False)} == {"line"}
