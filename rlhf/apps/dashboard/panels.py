"""The tabs of the page: controls, and what is drawn when they are turned or files have grown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from rlhf.apps.dashboard import curves, samples, views
from rlhf.apps.dashboard.chat_panel import chat_panel
from rlhf.apps.dashboard.page import Choices, Page
from rlhf.apps.dashboard.runs import Run
from rlhf.apps.dashboard.views import Say

MOST_CHARTS = 40
CHART_HEIGHT = 250


def overview(page: Page) -> None:
    html = _html()
    page.draw(lambda names: views.overview(page.runs(names), page.say), html)


def curve_panel(page: Page) -> None:
    """As many empty charts as any stage needs: those without a metric are hidden."""
    say = page.say
    with gr.Row(equal_height=True):
        kind = gr.Dropdown([], label=say("Stage"))
        window = gr.Slider(1, 50, 5, step=1, label=say("Smoothing, points"), min_width=250)
        every = gr.Checkbox(False, label=say("Every metric"))
    legend = _html()
    with gr.Row(elem_classes="rlhf-charts"):
        plots = [
            gr.LinePlot(
                None, "step", "value", color="line", visible=False, height=CHART_HEIGHT,
                buttons=["fullscreen"], colors_in_legend=[], tooltip="all",
            )
            for _ in range(MOST_CHARTS)
        ]  # fmt: skip

    def draw(names: list[str], wanted: str | None, steps: int, all_metrics: bool) -> list[Any]:
        runs = page.runs(names)
        kinds = curves.kinds([stage for run in runs for stage in run.stages()])
        choices = {views.kind_name(one, say): one for one in kinds}
        update, found = _choose(choices, wanted, last=True)
        drawn = curves.charts(runs, found, int(steps), all_metrics, say) if found else []
        lines = dict.fromkeys(point.line for chart in drawn for point in chart.points)
        colours = curves.colours(list(lines))
        shown = [_plot(chart, found, colours, say) for chart in drawn[:MOST_CHARTS]]
        hidden = [gr.update(visible=False)] * (MOST_CHARTS - len(shown))
        return [update, views.legend(colours, say), *shown, *hidden]

    page.draw(draw, [kind, legend, *plots], kind, window, every)


def sample_panel(page: Page) -> None:
    say = page.say
    with gr.Row(equal_height=True):
        source = gr.Dropdown([], label=say("Samples"), scale=3, min_width=250)
        number = gr.Number(1, label=say("Page"), minimum=1, precision=0, min_width=100)
    html = _html()

    def choices(names: list[str]) -> Choices:
        return {
            _named(page, run, names, one.key, say(samples.KINDS[one.kind])): (run, one)
            for run in page.runs(names)
            for one in samples.sources(run)
        }

    def draw(names: list[str], wanted: str | None, turned: int) -> list[Any]:
        known = choices(names)
        update, found = _choose({name: name for name in known}, wanted)
        if not found:
            return [update, gr.update(), views.texts([], say)]
        run, one = known[found]
        shown, pages = samples.page(run, one, int(turned or 1))
        label = f"{say('Page')} (1–{pages})"
        value = min(int(turned or 1), pages)
        return [update, gr.update(label=label, maximum=pages, value=value), views.texts(shown, say)]

    page.draw(draw, [source, number, html], source, number)


def alarm_panel(page: Page) -> None:
    stage = gr.Dropdown([], label=page.say("PPO stage"))
    html = _html()

    def draw(names: list[str], wanted: str | None) -> list[Any]:
        known = {
            _named(page, run, names, one.key): (run, one.key)
            for run in page.runs(names)
            for one in reversed(run.stages())
            if one.kind == "ppo"
        }
        update, found = _choose({name: name for name in known}, wanted)
        rules = views.rules_of(*known[found]) if found else []
        return [update, views.alarms(rules, page.say)]

    page.draw(draw, [stage, html], stage)


def report_panel(page: Page) -> None:
    say = page.say
    report = gr.Dropdown([], label=say("Report"))
    html = gr.HTML(elem_classes="rlhf-report")

    def draw(names: list[str], wanted: str | None) -> list[Any]:
        known = {
            _named(page, run, names, place.removesuffix("/pairs.jsonl"), "")
            if place != views.WHOLE
            else _named(page, run, names, "", say("the whole run")): (run, place)
            for run in page.runs(names)
            for place in views.reports(run)
        }
        update, found = _choose({name: name for name in known}, wanted)
        if not found:
            told = say("No report yet: the first is there once a reward model is tested.")
            return [update, f"<p class='rlhf-none'>{told}</p>"]
        return [update, views.report(*known[found])]

    page.draw(draw, [report, html], report)


def compare_panel(page: Page) -> None:
    html = _html()
    page.draw(lambda names: views.comparison(page.runs(names), page.say), html)


def _html(value: str = "") -> Any:
    return gr.HTML(value, elem_classes="rlhf")


def _choose(choices: Choices, wanted: Any, last: bool = False) -> tuple[Any, Any]:
    """What is chosen: the same as before while it is there, else the first, or the last."""
    values = list(choices.values())
    value = wanted if wanted in values else next(reversed(values) if last else iter(values), None)
    return gr.update(choices=list(choices.items()), value=value), value


def _named(page: Page, run: Run, names: Sequence[str], key: str, what: str = "") -> str:
    """How a stage is called where several runs may have one of the same name."""
    parts = [run.name] * (len(names) > 1) + [views.place(run, key, page.say)] * bool(key) + [what]
    return ": ".join(filter(None, parts))


def _plot(chart: curves.Chart, kind: str, colours: dict[str, str], say: Say) -> Any:
    return gr.update(
        value={
            "columns": ["step", "value", "line"],
            "data": [[*point] for point in chart.points],
            "datatypes": {"step": "quantitative", "value": "quantitative", "line": "nominal"},
            "mark": chart.mark,
        },
        title=say(chart.title),
        x_title=say(curves.X_TITLES.get(kind, "step")),
        y_title=say(chart.unit) or " ",
        color_map=colours,
        visible=True,
    )


PANELS: dict[str, Callable[[Page], None]] = {
    "Overview": overview,
    "Curves": curve_panel,
    "Samples": sample_panel,
    "Alarms": alarm_panel,
    "Report": report_panel,
    "Compare": compare_panel,
    "Chat": chat_panel,
}
