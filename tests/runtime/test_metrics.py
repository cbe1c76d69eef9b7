from __future__ import annotations

import io
import json
import math

from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlhf.runtime import metrics
from rlhf.runtime.metrics import Bar, MetricsLog, progress, read_rows, stage_table


def rows(directory):
    return read_rows(directory / "metrics.jsonl")


def test_rows_are_on_disk_as_soon_as_they_are_logged(tmp_path):
    log = MetricsLog(tmp_path / "rm")
    log.log(1, {"loss": 0.5})
    assert rows(tmp_path / "rm") == [{"step": 1, "loss": 0.5}]
    log.log(1, {"accuracy": 1.0})
    assert rows(tmp_path / "rm")[1] == {"step": 1, "accuracy": 1.0}


def test_rows_wait_for_the_flush(tmp_path):
    with MetricsLog(tmp_path, flush=2) as log:
        log.log(1, {"loss": 1})
        assert rows(tmp_path) == []
        log.log(2, {"loss": 1})
        log.log(3, {"loss": 1})
        assert len(rows(tmp_path)) == 2
    assert len(rows(tmp_path)) == 3


def test_all_rows_and_samples_are_forced_to_the_disk_when_asked(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(metrics, "sync", lambda path: synced.append((path, path.stat().st_size)))
    MetricsLog(tmp_path / "rm").sync()
    assert synced == []  # nothing was logged
    log = MetricsLog(tmp_path, flush=2)
    log.log_samples(1, [{"text": "a"}])
    log.log(1, {"loss": 1})
    log.sync()
    assert rows(tmp_path) == [{"step": 1, "loss": 1}]
    names = ("metrics.jsonl", "samples.jsonl")
    files = [(tmp_path / name, (tmp_path / name).stat().st_size) for name in names]
    assert synced[:2] == files
    log.log(2, {"loss": 1})
    log.close()
    assert synced[3] == (files[0][0], 2 * files[0][1])


def test_resuming_cuts_what_comes_again(tmp_path):
    with MetricsLog(tmp_path) as log:
        for step in (1, 2, 3, 4):
            log.log(step, {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # cut off by a crash
    with MetricsLog(tmp_path) as log:
        log.log(3, {"loss": 30.0})
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(1, 1), (2, 2), (3, 30.0)]


def test_rewinding_cuts_what_will_come_again(tmp_path):
    with MetricsLog(tmp_path, flush=2) as log:
        for step in (1, 2, 3):
            log.log(step, {"loss": step})
        log.rewind(2)
        log.log(2, {"loss": 20})
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(1, 1), (2, 20)]


def test_samples_are_cut_as_rows_are(tmp_path):
    def steps():
        return [(row["step"], row["text"]) for row in read_rows(tmp_path / "samples.jsonl")]

    with MetricsLog(tmp_path) as log:
        for step in (1, 2, 3):
            log.log_samples(step, [{"text": "好"}, {"text": "b\n"}])
            log.log(step, {"loss": step})
        log.rewind(3)
    assert steps() == [(1, "好"), (1, "b\n"), (2, "好"), (2, "b\n")]
    with MetricsLog(tmp_path) as log:
        log.log_samples(2, [{"text": "new"}])
        log.log(2, {"loss": 2})
    assert steps() == [(1, "好"), (1, "b\n"), (2, "new")]
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_a_log_without_rows_leaves_the_file_alone(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.log(1, {"loss": 1})
    with MetricsLog(tmp_path):
        pass
    assert len(rows(tmp_path)) == 1


def test_what_is_not_finite_is_null(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.log(1, {"loss": math.nan, "kl": math.inf})

    def refuse(word):
        raise AssertionError(word)

    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=refuse) == {"step": 1, "loss": None, "kl": None}


def test_tensorboard_shows_a_resumed_run_once(tmp_path):
    for first in (1, 2):
        with MetricsLog(tmp_path, ["tensorboard"]) as log:
            for step in range(first, 4):
                log.log(step, {"loss": 10 * first + step})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (1, 11),
        (2, 22),
        (3, 23),
    ]


def test_progress_without_a_terminal_is_a_line_now_and_then(runtime, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    with progress("ppo", runtime) as bar:
        for step in range(1, 31):
            now[0] += 1
            bar.update(step, 30, {"score": step / 10, "kl": 1.23456} if step > 1 else None)
    printed = runtime.console.file.getvalue().splitlines()
    assert printed == [
        "ppo 10/30 score 1 kl 1.235",
        "ppo 20/30 score 2 kl 1.235",
        "ppo 30/30 score 3 kl 1.235",
    ]


def test_progress_in_a_terminal_is_a_bar():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Bar("ppo", console) as bar:
        bar.update(3, 30, {"kl": 1.5})
    shown = console.file.getvalue()
    assert "3/30" in shown and "kl 1.5" in shown


def test_table(runtime):
    rows = {"eval_loss": 0.123456, "tokens": 12345, "note": "fine", "mean": None}
    runtime.console.print(stage_table("sft", rows))
    shown = runtime.console.file.getvalue()
    assert all(part in shown for part in ("sft", "eval loss", "0.1235", "12,345", "fine", "None"))
