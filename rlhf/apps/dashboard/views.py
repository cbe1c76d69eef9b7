"""Pieces of the page as HTML: what a run's files hold is text in them, never markup."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from shlex import quote
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError

from rlhf.apps.annotate.notice import address_of
from rlhf.apps.dashboard import compare
from rlhf.apps.dashboard.alarms import Watched, watched
from rlhf.apps.dashboard.curves import ROUND
from rlhf.apps.dashboard.runs import Run
from rlhf.apps.dashboard.samples import Sample
from rlhf.data.jsonl import read_jsonl
from rlhf.data.records import Message
from rlhf.evaluation import margin_report, rm_plots
from rlhf.evaluation import page as report_page
from rlhf.evaluation.preference import PairRow
from rlhf.runtime.run_dir import EACH_ROUND

Say = Callable[[str], str]
"""English to the page's language."""
WHOLE = "report/index.html"
NAMES = {
    "sft": "SFT",
    "collect": "Collection",
    "dpo": "DPO",
    "rm": "Reward model",
    "ppo": "PPO",
    "evaluate": "Evaluation",
    "capabilities": "Capabilities",
}


def overview(runs: Sequence[Run], say: Say) -> str:
    """Every stage of every run; alarms that ring now; what waits for people."""
    shown = []
    for run in runs:
        stages = run.stages()
        asked = [run.root / stage.key for stage in stages if stage.status == "waiting"]
        waiting = [(f"rlhf annotate {quote(str(folder))}", address_of(folder)) for folder in asked]
        ringing = [
            (stage.key, [rule.metric for rule in rules_of(run, stage.key) if rule.ringing])
            for stage in stages
            if stage.kind == "ppo" and stage.status == "running"
        ]
        shown.append((run, stages, waiting, [one for one in ringing if one[1]]))
    return _render("overview", say, runs=shown)


def alarms(rules: Sequence[Watched], say: Say) -> str:
    """The rules of one PPO stage and what came of them."""
    ringing = [rule.metric for rule in rules if rule.ringing]
    return _render("alarms", say, rules=rules, ringing=ringing)


def legend(colours: Mapping[str, str], say: Say) -> str:
    """Which line has which colour, once for all charts."""
    return _render("legend", say, colours=colours)


def texts(shown: Sequence[Sample], say: Say) -> str:
    """Prompts with their answers."""
    return _render("samples", say, samples=shown)


def talk(turns: Sequence[Message], say: Say) -> str:
    """A conversation so far."""
    return _render("talk", say, talk=turns)


def comparison(runs: Sequence[Run], say: Say) -> str:
    """Results, reward models and configs side by side."""
    tested, measures, same_pairs = compare.reward_model_lines(runs, say("to"))
    return _render(
        "compare",
        say,
        names=[run.name for run in runs],
        results=compare.results(runs),
        tested=[run.name for run in tested],
        measures=measures,
        same_pairs=same_pairs,
        differences=compare.differences(runs),
    )


def reports(run: Run) -> list[str]:
    """The reports that the run has: its own, and that of each round's reward model."""
    places = [WHOLE, *(f"{before}{compare.PAIRS}" for _, before in reversed(run.rounds()))]
    return [place for place in places if (run.root / place).is_file()]


def report(run: Run, place: str) -> str:
    """One of `reports` as a page within the page, which can reach nothing of this one.

    A reward model's is drawn from its pairs, so that it is there before the run's own is.
    """
    file = run.root / place
    html = (
        file.read_text("utf-8")
        if place == WHOLE
        else _reward_model(file, f"{run.name}/{place}", file.stat().st_mtime_ns)
    )
    return f'<iframe sandbox="allow-scripts" srcdoc="{escape(html)}"></iframe>'


def rules_of(run: Run, key: str) -> list[Watched]:
    """The rules of a PPO stage; none where the config has some that this version does not know."""
    try:
        return watched(run, key)
    except ValidationError:
        return []


def place(run: Run, key: str, say: Say) -> str:
    """rounds/1/ppo -> PPO, round 1; the round is left out where there is but one."""
    parts, rounds = key.split("/"), run.rounds()
    number: int | str = len(rounds)
    if parts[0] == "rounds":
        number, parts = parts[1], parts[2:]
    name = ": ".join([kind_name(parts[0], say), *parts[1:]])
    told = len(rounds) > 1 and parts[0] in EACH_ROUND
    return f"{name}, {say(ROUND).format(number=number)}" if told else name


def kind_name(kind: str, say: Say) -> str:
    """ppo -> PPO."""
    return say(NAMES.get(kind, kind))


@cache
def _reward_model(pairs: Path, name: str, changed: int) -> str:
    rows = list(read_jsonl(pairs, PairRow))
    tables = margin_report.build(rows)
    plots = [sketch.drawn() for sketch in rm_plots.sketches(tables, rows)]
    return report_page.render_rm(name, tables, plots, pairs)


def _remarks(remarks: Sequence[tuple[str, Any]], say: Say) -> str:
    told = [
        f"{say(name)} {say(value) if isinstance(value, str) else report_page.number(value)}".strip()
        for name, value in remarks
        if value is not None
    ]
    return " · ".join(told)


def _render(template: str, say: Say, **values: Any) -> str:
    return (
        _templates()
        .get_template(f"{template}.html.jinja")
        .render(
            say=say,
            place=lambda run, key: place(run, key, say),
            remarks=lambda remarks: _remarks(remarks, say),
            **values,
        )
    )


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("rlhf.apps.dashboard"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(number=report_page.number, duration=report_page.duration)
    return environment
