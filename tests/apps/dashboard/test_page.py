"""The page in a headless browser, served as users serve it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apps.dashboard.worlds import make_run

CHROMIUM = shutil.which("chromium")
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
MISSING += [] if CHROMIUM else ["chromium"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} to open the page"),
]

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
PASSWORD = "long enough"
PATIENCE = 180  # seconds: of a machine that does much else, too


class Served:
    """`rlhf ui` in a process of its own."""

    def __init__(self, runs: Path, **environment: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.runs, self.address = runs, f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "rlhf", "ui", str(runs), "--port", str(self.port)]
        path = os.pathsep.join(sys.path)
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path, "GRADIO_ALLOWED_PATHS": "/", **environment},
            stdout=subprocess.DEVNULL,
        )

    def __enter__(self) -> Served:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "the server ended"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.1)
        raise AssertionError("the server does not answer")

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def served(tmp_path: Path, checkpoint: Callable[..., Path]) -> Iterator[Served]:
    model = checkpoint("baichuan2-7b")
    for name in ("a", "b"):
        root = make_run(tmp_path / "runs" / name)
        shutil.copytree(model, root / "sft/main", dirs_exist_ok=True)
    with Served(tmp_path / "runs") as started:
        yield started


def visit(browser: Any, address: str, **options: Any) -> Any:
    context = browser.new_context(**{"locale": "en-GB", **options})
    context.set_default_timeout(PATIENCE * 1000)
    page = context.new_page()
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(address)
    return page


def test_every_tab_shows_the_run_and_goes_on_with_it(browser: Any, served: Served) -> None:
    page = visit(browser, served.address)
    page.wait_for_function("() => document.body.innerText.includes('7 / 10')")
    page.get_by_role("tab", name="Curves").click()
    page.get_by_text("b, round 2").wait_for()
    page.wait_for_function("() => document.querySelectorAll('.rlhf-charts canvas, "
                           ".rlhf-charts svg.marks').length >= 2")  # fmt: skip
    page.get_by_role("tab", name="Samples").click()
    page.get_by_text("answer 6", exact=True).wait_for()
    assert page.locator(".rlhf-prompt").first.inner_text() == "How do I <b>begin</b>?"
    page.get_by_role("tab", name="Alarms").click()
    page.get_by_text("3–4, 7").wait_for()
    page.get_by_role("tab", name="Compare").click()
    page.get_by_text("The configs do not differ.").wait_for()
    page.get_by_role("tab", name="Report").click()
    page.frame_locator(".rlhf-report iframe").get_by_text("Reward model report").wait_for()

    ppo = served.runs / "a/ppo"
    line = {"step": 7, "prompt": "q", "response": "just now", "score": 1.0, "ended": True}
    with (ppo / "samples.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    page.get_by_role("tab", name="Samples").click()
    page.get_by_text("just now").wait_for()
    make_run(served.runs / "c")
    page.get_by_role("tab", name="Overview").click()
    page.locator(".rlhf-card h3").filter(has_text="c").wait_for()
    assert page.get_by_label("c", exact=True).is_checked()
    others = [url for url in page.asked if not url.startswith((served.address, "data:", "blob:"))]
    assert others == []


def test_models_answer_and_no_file_is_served(browser: Any, served: Served) -> None:
    page = visit(browser, f"{served.address}/zh", viewport={"width": 390, "height": 844})
    page.get_by_text("第 2 轮").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.goto(served.address)
    page.set_viewport_size({"width": 1280, "height": 800})
    page.get_by_role("tab", name="Chat").click()
    page.wait_for_function(
        "() => [...document.querySelectorAll('input')]"
        ".filter(one => one.value.endsWith(': sft/main')).length === 2"
    )
    question = page.get_by_label("Question")
    question.fill("<i>hello</i>")
    question.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('.rlhf-talk .assistant').length === 2")
    assert page.locator(".rlhf-talk .user").all_inner_texts() == ["<i>hello</i>"] * 2
    for path in ("/etc/passwd", Path(__file__), served.runs / "a/config.yaml"):
        answer = page.request.get(f"{served.address}/gradio_api/file={path}")
        assert answer.status in (403, 404), path
    upload = page.request.post(
        f"{served.address}/gradio_api/upload",
        multipart={"files": {"name": "x.txt", "mimeType": "text/plain", "buffer": b"too long"}},
    )
    assert upload.status == 413


def test_a_page_opens_with_the_runs_that_changed_last(browser: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "runs/a")
    with Served(tmp_path / "runs") as served:
        first = visit(browser, served.address)
        first.locator(".rlhf-card h3").filter(has_text="a").wait_for()
        for age, name in enumerate("abcdefgh"):
            root = tmp_path / "runs" / name
            for file in (root if name == "a" else make_run(root)).glob("*.*"):
                os.utime(file, (2e9 - age, 2e9 - age))
        page = visit(browser, served.address)
        page.locator(".rlhf-card h3").nth(5).wait_for()
        assert page.locator(".rlhf-card h3").all_inner_texts() == [*"abcdef"]
        ticked = [name for name in "abcdefgh" if page.get_by_label(name, exact=True).is_checked()]
        assert ticked == [*"abcdef"]
        # Where a page is open already, those that are new are on show, too.
        first.locator(".rlhf-card h3").nth(7).wait_for()


def test_a_password_keeps_strangers_out(browser: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "runs/a")
    with Served(tmp_path / "runs", RLHF_UI_PASSWORD=PASSWORD) as served:
        page = visit(browser, served.address)
        for path in ("config", "gradio_api/info", "zh/config", "gradio_api/file=/etc/passwd"):
            assert page.request.get(f"{served.address}/{path}").status in (401, 404), path
        page.locator("input[type=password]").fill(PASSWORD)
        page.locator("input").first.fill("rlhf")
        page.locator("input[type=password]").press("Enter")
        page.get_by_text("7 / 10").wait_for()
