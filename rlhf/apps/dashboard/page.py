"""The page on Gradio: signing in and transport, between the panels and what runs hold.

Imported only when a page is served, since it needs the extra `ui`.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse

from rlhf.apps.dashboard.runs import Run, find_runs, newest, signature
from rlhf.apps.dashboard.talk import Speakers
from rlhf.apps.dashboard.views import Say
from rlhf.apps.dashboard.words import LANGUAGES, translator
from rlhf.apps.local import ask_directly, calls_this_machine

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr  # noqa: E402

STATIC = Path(__file__).with_name("static")
USER = "rlhf"
WELCOME = (
    f"User name: {USER}. Password: the one that rlhf ui was given.<br>"
    f"用户名:{USER}。密码:启动 rlhf ui 时所设的密码。"
)
MISCALLED = (
    "call this page localhost, as through ssh -L 7860:127.0.0.1:7860 HOST; where a proxy has "
    "another name for it, start rlhf ui with a password in RLHF_UI_PASSWORD"
)
EVERY = 4.0
"""Seconds between two looks at the runs' files."""
AT_ONCE = 6
"""Runs that are on show at first."""
FONT = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "PingFang SC",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
)
Choices = dict[str, Any]
"""What can be chosen, by what it is called."""


@dataclass(frozen=True)
class Page:
    """What the panels of a language's page share.

    say: English to its language. chosen: names of the runs on show. seen: changes
    when there is something new in the files, and when somebody opens the page.
    """

    paths: Sequence[Path]
    speakers: Speakers
    say: Say
    chosen: Any
    seen: Any

    def runs(self, names: Sequence[str]) -> list[Run]:
        """Those of the names that are still there."""
        return [run for run in find_runs(self.paths) if run.name in names]

    def draw(self, work: Callable[..., Any], outputs: Any, *controls: Any) -> None:
        """Have `outputs` drawn by `work(chosen, *controls)`: when there is news, as there is once
        the page has found the runs, and when somebody turns a control."""
        turned = [control.input for control in controls]
        gr.on(
            [self.seen.change, self.chosen.input, *turned],
            work,
            [self.chosen, *controls],
            outputs,
            show_progress="hidden",
            api_visibility="private",
            trigger_mode="always_last",
        )


def build(paths: Sequence[Path], speakers: Speakers) -> Any:
    """The Blocks application: the same page in each language."""
    with gr.Blocks(title="RLHF", analytics_enabled=False) as blocks:
        _fill(blocks, paths, speakers, translator("en"))
    for language, name in LANGUAGES.items():
        if language != "en":
            with blocks.route(name, language) as other:
                _fill(other, paths, speakers, translator(language))
    return blocks


def _fill(blocks: Any, paths: Sequence[Path], speakers: Speakers, say: Say) -> None:
    from rlhf.apps.dashboard import panels

    gr.Navbar(main_page_name=LANGUAGES["en"])  # a page of its own for each language
    chosen = gr.CheckboxGroup([], label=say("Runs"), visible=False, elem_classes="rlhf-runs")
    page = Page(paths, speakers, say, chosen, gr.State(""))
    with gr.Tabs():
        for title, panel in panels.PANELS.items():
            with gr.Tab(say(title)):
                panel(page)

    def look(chosen: list[str], known: list[str]) -> list[Any]:
        found = find_runs(paths)
        names = [run.name for run in found]
        if names == known:
            return [signature(found), gr.skip(), known]
        new = set(names) - set(known) if known else {run.name for run in newest(found, AT_ONCE)}
        chosen = [name for name in names if name in chosen or name in new]
        update = gr.update(choices=names, value=chosen, visible=len(names) > 1)
        return [signature(found), update, names]

    known = gr.State([])  # none on a page that opens
    gr.on(
        [blocks.load, gr.Timer(EVERY).tick],
        look,
        [chosen, known],
        [page.seen, chosen, known],
        show_progress="hidden",
        api_visibility="private",
    )


class OwnNames:
    """Lets through who calls this machine by a name of its own.

    Starlette's TrustedHostMiddleware tells nobody what to do instead.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        app = self.app
        if scope["type"] in ("http", "websocket"):
            host = HTTPConnection(scope).headers.get("host", "")
            if not calls_this_machine(host):
                app = PlainTextResponse(f"{host}: {MISCALLED}", status_code=403)
        await app(scope, receive, send)


def launch(
    paths: Sequence[Path], host: str, port: int | None, password: str | None
) -> tuple[Any, str]:
    """Serve in threads of its own; returns the application and its address.

    There is nothing to download or to upload: the whole disk is closed to readers, whatever the
    environment opens (GRADIO_ALLOWED_PATHS), and a file of more than a byte is refused.
    """
    blocks = build(paths, Speakers())
    ask_directly(host)

    def may_enter(name: str, given: str) -> bool:
        right = hmac.compare_digest(given.encode(), (password or "").encode())
        return name == USER and right

    _, address, _ = blocks.launch(
        server_name=f"[{host}]" if ":" in host else host,  # as it stands in the page's address
        server_port=port,
        auth=may_enter if password else None,
        app_kwargs=None if password else {"middleware": [Middleware(OwnNames)]},
        auth_message=WELCOME,
        prevent_thread_lock=True,
        share=False,
        inbrowser=False,
        quiet=True,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        blocked_paths=[Path.cwd().anchor],
        max_file_size=1,
        enable_monitoring=False,
        strict_cors=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        _frontend=False,  # else it asks itself once more, and gives up on a busy machine
        theme=gr.themes.Base(font=FONT, font_mono=("ui-monospace", "monospace")),
        css_paths=[STATIC / "style.css"],
    )
    return blocks, address
