"""The annotation page on Gradio: signing in and transport, between static/ and the desk.

Imported only when a page is served, since it needs the extra `ui`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.apps.annotate.accounts import is_password
from rlhf.apps.annotate.database import Moved, Unsaved
from rlhf.apps.annotate.desk import Desk, View
from rlhf.apps.local import ask_directly

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr  # noqa: E402
from starlette.exceptions import HTTPException  # noqa: E402

HOST = "127.0.0.1"
STATIC = Path(__file__).with_name("static")
SCRIPTS = ("words.js", "dom.js", "ranking.js", "task.js", "moves.js", "audit.js", "desk.js")
FONT = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "PingFang SC",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
)
WELCOME = "Annotation · 标注<br>Sign in with the account you were given. 请用分配给你的账号登录。"


def build(desk: Desk) -> Any:
    """The Blocks application: one component, drawn by static/*.js from the desk's views.

    Gradio tells who has signed in to the event of loading only, not to a component's functions. So
    loading hands out a ticket, and each request shows it; a request from elsewhere has none.
    """
    tickets: dict[str, str] = {}

    def enter(request: gr.Request) -> str:
        ticket = secrets.token_urlsafe(16)
        tickets[ticket] = str(request.username)
        return ticket

    def call(data: Any) -> View:
        return answer(desk, tickets, data)

    with gr.Blocks(title="Annotation · 标注", analytics_enabled=False) as blocks:
        page = gr.HTML(
            value="",
            html_template="<main id='desk'></main>",
            js_on_load="\n".join((STATIC / name).read_text("utf-8") for name in SCRIPTS),
            apply_default_css=False,
            server_functions=[call],
        )
        blocks.load(
            enter, outputs=page, queue=False, show_progress="hidden", api_visibility="private"
        )
    return blocks


def answer(desk: Desk, tickets: Mapping[str, str], data: Any) -> View:
    """What the desk answers whoever has the ticket in data: [ticket, request] where it is ours."""
    match data:
        case [str(ticket), str(request)] if ticket in tickets:
            return desk.handle(tickets[ticket], request)
    return {"error": "forbidden"}


def may_enter(desk: Desk, name: str, password: str) -> bool:
    """Whether this is an account's password; what keeps the server from looking is told."""
    try:
        return is_password(desk.job.database, name, password)
    except Moved as moved:
        # Without the place: who asks has not signed in.
        raise HTTPException(503, "moved; start rlhf annotate again") from moved
    except Unsaved as unsaved:
        raise HTTPException(503, unsaved.reason) from unsaved


def launch(desk: Desk, port: int | None) -> tuple[Any, str]:
    """Serve on 127.0.0.1 alone, in threads of its own; returns the application and its address.

    There is nothing to download or to upload: the whole disk is closed to readers, whatever the
    environment opens (GRADIO_ALLOWED_PATHS), and a file of more than a byte is refused.
    """
    blocks = build(desk)
    ask_directly(HOST)
    _, address, _ = blocks.launch(
        server_name=HOST,
        server_port=port,
        auth=lambda name, password: may_enter(desk, name, password),
        auth_message=WELCOME,
        prevent_thread_lock=True,
        share=False,
        inbrowser=False,
        quiet=True,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        blocked_paths=[desk.job.folder.resolve().anchor],
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
