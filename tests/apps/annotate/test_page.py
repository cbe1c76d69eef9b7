"""The page in a headless browser, served as users serve it, by a process that can be killed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf.apps.annotate.accounts import add_user
from rlhf.apps.annotate.job import Job
from rlhf.data.records import RankingRecord, read_jsonl
from tests.apps.annotate.worlds import collect_folder

CHROMIUM = shutil.which("chromium")
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
MISSING += [] if CHROMIUM else ["chromium"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} to open the page"),
]

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PASSWORD = "long enough"
PATIENCE = 180  # seconds: of a machine that does much else, too
LETTERS = "ABCD"


class Server:
    """`rlhf annotate` in a process of its own."""

    def __init__(self, job: Job) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.job, self.address = job, f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGINT)

    def start(self) -> None:
        command = [sys.executable, "-m", "rlhf", "annotate", str(self.job.folder)]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "GRADIO_ALLOWED_PATHS": "/",
            },
            stdout=subprocess.DEVNULL,
            # A shell's background job, as these tests may be, is started deaf to Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "the server ended"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        self.end(signal.SIGKILL)
        raise AssertionError("the server does not answer")

    def end(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.wait(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


def job_in(folder: Path) -> Job:
    made = collect_folder(folder, tasks=3)
    for name in ("ann", "bob"):
        add_user(made.database, name, PASSWORD, auditor=False)
    return made


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return job_in(tmp_path)


@pytest.fixture
def server(job: Job) -> Iterator[Server]:
    with Server(job) as started:
        yield started


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for tests that answer nothing: starting one takes long."""
    with Server(job_in(tmp_path_factory.mktemp("idle"))) as started:
        yield started


def visit(browser: Any, server: Server, **options: Any) -> Any:
    context = browser.new_context(**{"locale": "en-GB", **options})
    context.set_default_timeout(PATIENCE * 1000)
    page = context.new_page()
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(server.address)
    return page


def sign_in(browser: Any, server: Server, name: str, **options: Any) -> Any:
    page = visit(browser, server, **options)
    fill_in(page, name, PASSWORD)
    page.wait_for_selector("#desk header")
    return page


def fill_in(page: Any, name: str, password: str) -> None:
    page.locator("input[type=password]").fill(password)
    page.locator("input").first.fill(name)
    page.locator("input[type=password]").press("Enter")


def settled(page: Any, count: int) -> None:
    page.wait_for_function(
        f"() => document.querySelector('#desk progress')?.getAttribute('value') === '{count}'"
    )


def question(page: Any) -> str:
    return str(page.locator(".turn.last .text").inner_text())


def press(page: Any, keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def test_two_annotators_at_once_by_keyboard(browser: Any, server: Server, job: Job) -> None:
    ann, bob = sign_in(browser, server, "ann"), sign_in(browser, server, "bob", locale="zh-CN")
    assert "question 0" in question(ann) and "question 1" in question(bob)
    assert bob.locator(".finish .primary").inner_text().startswith("提交")
    texts = {
        name: page.locator("article .text").all_inner_texts()
        for name, page in (("ann", ann), ("bob", bob))
    }
    press(ann, "2133")  # ranks of A to D: B, then A, then C and D tied
    press(ann, "51h")
    press(bob, "1234")
    press(bob, "123n")
    ann.keyboard.press("Enter")
    ann.wait_for_function("() => document.body.innerText.includes('question 2')")
    bob.keyboard.press("Enter")  # not before: the last task goes to whoever is first
    press(ann, "1111h")
    ann.keyboard.press("Enter")
    ann.wait_for_selector(".nothing")
    bob.wait_for_selector(".nothing")
    records = {
        record.id: record for record in read_jsonl(job.folder / "rankings.jsonl", RankingRecord)
    }
    shown = {
        "t0": dict(zip(texts["ann"], (2, 1, 3, 3), strict=True)),
        "t1": dict(zip(texts["bob"], (1, 2, 3, 4), strict=True)),
    }
    for name, ranks in shown.items():
        record = records[name]
        given = [ranks[response.text] for response in record.responses]
        assert list(record.ranks) == given
    assert (records["t0"].annotator, records["t0"].grades) == ("ann", (5, 1))
    assert (records["t1"].annotator, records["t1"].grades) == ("bob", (1, 2, 3))
    assert records["t1"].prompt.label == "harmless"
    assert records["t2"].ranks == (1, 1, 1, 1)


def test_answers_are_text_and_nothing_is_asked_of_others(browser: Any, idle: Server) -> None:
    page = sign_in(browser, idle, "ann")
    assert page.locator("article img").count() == 0
    assert page.title() == "Annotation · 标注"
    html = page.content()
    assert "secret" not in html and "13b" not in html
    others = [url for url in page.asked if not url.startswith((idle.address, "data:", "blob:"))]
    assert others == []


def test_no_file_is_served(browser: Any, idle: Server) -> None:
    page = sign_in(browser, idle, "ann")
    own = (idle.job.database.path, idle.job.folder / "tasks.jsonl")
    for path in ("/etc/passwd", Path(__file__), *own):
        answer = page.request.get(f"{idle.address}/gradio_api/file={path}")
        assert answer.status in (403, 404), path
    upload = page.request.post(
        f"{idle.address}/gradio_api/upload",
        multipart={"files": {"name": "x.txt", "mimeType": "text/plain", "buffer": b"too long"}},
    )
    assert upload.status == 413


def test_strangers_get_nothing(browser: Any, idle: Server) -> None:
    page = visit(browser, idle)
    fill_in(page, "ann", "wrong password")
    page.wait_for_timeout(500)
    assert page.locator("#desk").count() == 0
    call = {"session_hash": "x", "component_id": 1, "fn_name": "call", "data": ["", "{}"]}
    for path in ("config", "gradio_api/info", "gradio_api/file=/etc/passwd"):
        assert page.request.get(f"{idle.address}/{path}").status == 401
    answer = page.request.post(f"{idle.address}/gradio_api/component_server", data=call)
    assert answer.status == 401


def test_a_call_without_a_ticket_is_refused(browser: Any, idle: Server) -> None:
    page = sign_in(browser, idle, "ann")
    component = page.request.get(f"{idle.address}/config").json()["components"]
    number = next(part["id"] for part in component if part["type"] == "html")
    call = {"session_hash": "x", "component_id": number, "fn_name": "call"}
    data = ["guess", json.dumps({"action": "open"})]
    answer = page.request.post(
        f"{idle.address}/gradio_api/component_server", data={**call, "data": data}
    )
    assert answer.json() == {"error": "forbidden"}


def test_a_killed_server_loses_nothing(browser: Any, server: Server) -> None:
    page = sign_in(browser, server, "ann")
    press(page, "1234" + "123" + "h")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.body.innerText.includes('question 1')")
    press(page, "432")
    server.end(signal.SIGKILL)
    press(page, "1" + "111" + "h")
    page.keyboard.press("Enter")
    page.wait_for_selector(".toast.error")
    server.start()
    page.goto(server.address)
    fill_in(page, "ann", PASSWORD)
    settled(page, 1)
    assert "question 1" in question(page)
    chosen = page.locator(".rank [aria-pressed=true]").all_inner_texts()
    assert chosen == ["4", "3", "2", "1"]
    page.keyboard.press("Enter")
    settled(page, 2)


def test_drag_buttons_and_narrow_screen(browser: Any, idle: Server) -> None:
    page = sign_in(browser, idle, "ann", viewport={"width": 390, "height": 844})
    for place in range(4):
        page.locator(f"[data-rank='{place}'] button").nth(place).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator(".chip").nth(3).drag_to(page.locator(".tier").first)
    tiers = page.locator(".panel ol .tier")
    assert ["".join(c for c in text if c in LETTERS) for text in tiers.all_inner_texts()] == [
        "AD",
        "B",
        "C",
    ]
    page.locator(".chip").nth(1).drag_to(page.locator(".zone").first)
    assert tiers.first.locator(".chip").all_inner_texts() == ["D"]
    press(page, "s")
    page.wait_for_function("() => document.body.innerText.includes('question 1')")


def test_auditor_sends_a_batch_back(browser: Any, server: Server, job: Job) -> None:
    add_user(job.database, "zoe", PASSWORD, auditor=True)
    ann = sign_in(browser, server, "ann")
    press(ann, "1234" + "123" + "h")
    ann.keyboard.press("Enter")
    ann.wait_for_function("() => document.body.innerText.includes('question 1')")
    ann.keyboard.press("f")
    ann.locator("dialog textarea").fill("a phone number")
    ann.locator("dialog .primary").click()
    ann.wait_for_function("() => document.body.innerText.includes('question 2')")
    zoe = sign_in(browser, server, "zoe")
    assert "a phone number" in zoe.locator(".audit").inner_text()
    zoe.locator("tbody tr").first.click()
    zoe.wait_for_selector(".sample")
    zoe.keyboard.press("n")
    zoe.wait_for_selector(".item.bad")
    zoe.get_by_role("button", name="Send it back").click()
    assert "Say why" in zoe.locator(".toast.error").inner_text()
    zoe.locator(".verdict-note").fill("ranks upside down")
    zoe.get_by_role("button", name="Send it back").click()
    zoe.wait_for_selector(".state.rejected")
    ann.reload()
    ann.wait_for_selector("#desk .notice")
    assert "ranks upside down" in ann.locator(".notice").first.inner_text()
    settled(ann, 1)  # the flagged one
