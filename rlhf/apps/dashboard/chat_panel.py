"""The tab that talks to the models of the runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from rlhf.apps.dashboard import views
from rlhf.apps.dashboard.page import Choices, Page
from rlhf.apps.dashboard.runs import Run, by_age
from rlhf.apps.dashboard.talk import checkpoints, first_two
from rlhf.data.records import Message

Talk = list[Message]


def chat_panel(page: Page) -> None:
    """Two models answer the same question; with one left out, the other answers alone."""
    say = page.say
    models: list[Any] = []
    shown: list[Any] = []
    with gr.Row():
        for label in ("Model", "And beside it"):
            with gr.Column(min_width=300):
                models.append(gr.Dropdown([], label=say(label)))
                shown.append(gr.HTML(views.talk([], say), elem_classes="rlhf"))
    question = gr.Textbox(
        label=say("Question"), placeholder=say("Enter asks both"), submit_btn=True, stop_btn=True
    )
    with gr.Row():
        temperature = gr.Slider(
            0, 1.5, 0, step=0.1, scale=2, label=say("Temperature (0: the most likely answer)")
        )
        with gr.Column(min_width=160):
            clear = gr.Button(say("Start anew"), size="md")
            release = gr.Button(say("Free the memory"), size="md")
    said = gr.State([[], []])

    def choose(names: list[str], left: str | None, right: str | None) -> list[Any]:
        found = list(_known(page, names))
        first, second = _pair(page, names)
        if left in found:
            first, second = left, right if right in found else None
        beside = [(say("nobody"), ""), *((name, name) for name in found)]
        return [
            gr.update(choices=found, value=first),
            gr.update(choices=beside, value=second or ""),
        ]

    page.draw(choose, models, *models)
    asking = question.submit(
        _ask(page),
        [page.chosen, *models, said, question, temperature],
        [said, *shown, question],
        show_progress="minimal",
        api_visibility="private",
    )
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    question.stop(None, cancels=[asking])
    empty = views.talk([], say)
    clear.click(lambda: [[[], []], empty, empty], None, [said, *shown], cancels=[asking], **quiet)
    release.click(page.speakers.release, None, None, cancels=[asking], **quiet)


def _known(page: Page, names: list[str]) -> Choices:
    """Checkpoints that can be asked, by what they are called."""
    found: Choices = {}
    for run in page.runs(names):
        found |= _models(run, names)
    return found


def _pair(page: Page, names: list[str]) -> tuple[str | None, str | None]:
    return first_two([list(_models(run, names)) for run in by_age(page.runs(names))])


def _models(run: Run, names: list[str]) -> Choices:
    before = f"{run.name}: " if len(names) > 1 else ""
    return {before + place: path for place, path in checkpoints(run).items()}


def _ask(page: Page) -> Callable[..., Iterator[list[Any]]]:
    def ask(
        names: list[str], left: str, right: str, said: list[Talk], text: str, heat: float
    ) -> Iterator[list[Any]]:
        known = _known(page, names)
        asked = [side for side, name in enumerate((left, right)) if name]
        if not asked or not text.strip():
            raise gr.Error(page.say("Choose a model, and ask something."), print_exception=False)
        paths = [known[(left, right)[side]] for side in asked]
        talks = list(said)
        from rlhf.apps.chat.command import Sampling  # now that it is needed, and all behind it

        how = Sampling(temperature=heat)
        try:
            for grown in page.speakers.ask(
                paths, [said[side] for side in asked], text.strip(), how
            ):
                for side, talk in zip(asked, grown, strict=True):
                    talks[side] = talk
                yield [talks, *(views.talk(talk, page.say) for talk in talks), ""]
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return ask
