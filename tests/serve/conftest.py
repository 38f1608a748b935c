"""A real server in a process of its own, a real browser, and videos for them."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stages.benchmarks.shapes.generate import plan_video, write_video
from stages.benchmarks.shapes.timeline import video_rng

START_SECONDS = 120.0
REQUEST_SECONDS = 60.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MAX_UPLOAD_MB = 3
KEPT_VIDEOS = 2


@dataclass(frozen=True)
class Reply:
    """What the server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A running `vqa serve`.

    Attributes:
        process: Of the server.
        url: As it said itself.
        facts: All that it said at its start.
        temporary: Its TMPDIR.
    """

    process: subprocess.Popen[str]
    url: str
    facts: dict[str, Any]
    temporary: Path

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One request; underscores of header names are dashes."""
        host, port = self.address.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=REQUEST_SECONDS)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return Reply(
                answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
            )
        finally:
            connection.close()

    def upload(self, video: Path) -> Reply:
        return self.send("POST", "/api/videos", video.read_bytes())

    def ask(self, video: str, question: str, *options: str) -> Reply:
        record = {"video": video, "question": question, "options": list(options)}
        body = json.dumps(record)
        return self.send("POST", "/api/answers", body, content_type="application/json")

    def files(self) -> list[Path]:
        """What it holds on disk."""
        return [path for path in self.temporary.rglob("*") if path.is_file()]


def start(temporary: Path, *options: str) -> Server:
    """Start one on a free port, and wait until it answers."""
    temporary.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "vqa_cli", "serve", "--port", "0", "--json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=temporary.parent,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    assert process.stdout is not None
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    line = process.stdout.readline()
    watchdog.cancel()
    if not line:
        raise AssertionError(f"the server did not start: {process.communicate()[1]}")
    facts = json.loads(line)
    if "url" not in facts:
        process.communicate()
        raise AssertionError(facts)
    return Server(process, facts["url"], facts, temporary)


ALONE = """
import sys, time
from stages import serve
from stages.serving.limits import Limits
def ready(url):
    print('{"url": "%s"}' % url, flush=True)
def stopping():
    print("stopping", flush=True)
    time.sleep(float(sys.argv[1]))
serve.serve(None, {}, serve.listen(0), Limits(), "auto", ready, stopping)
"""
"""A server with nobody to answer questions: it starts at once."""


def start_alone(temporary: Path, slow: float = 0.0) -> Server:
    """Start one that takes videos but cannot look at them; its end is held up for `slow` s."""
    temporary.mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", ALONE, str(slow)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    assert process.stdout is not None
    facts = json.loads(process.stdout.readline())
    return Server(process, facts["url"], facts, temporary)


def stop(server: Server, number: int = signal.SIGINT) -> tuple[int, str]:
    """Stop it as Ctrl-C does; exit code and what it said on stderr."""
    server.process.send_signal(number)
    try:
        _, said = server.process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.communicate()
        raise
    return server.process.returncode, said


@pytest.fixture(scope="session")
def starting_alone() -> Callable[..., Server]:
    """`starting_alone(temporary, slow=0.0)`: a server that the test itself stops."""
    return start_alone


@pytest.fixture(scope="session")
def stopping() -> Callable[..., tuple[int, str]]:
    """`stopping(server, signal)`: exit code and stderr."""
    return stop


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests, on the embedded default."""
    temporary = tmp_path_factory.mktemp("serve") / "temporary"
    limits = ("--max-upload", str(MAX_UPLOAD_MB), "--max-videos", str(KEPT_VIDEOS))
    running = start(temporary, *limits)
    yield running
    code, said = stop(running)
    assert code == 0
    assert "stopping ..." in said
    assert said.endswith("stopped; nothing was kept\n")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One generated video."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    timeline, _ = plan_video("test", 5, False, 0)
    write_video(path, timeline, video_rng(5, "test", 0, "picture"))
    return path


# Not for the session: while it is open, this thread has a running event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium; tests are skipped without one, unless it is required (in CI)."""
    give_up = pytest.fail if os.environ.get("VQA_REQUIRE_BROWSER") == "1" else pytest.skip
    named = (os.environ.get("VQA_CHROMIUM", ""), *BROWSERS)
    path = next((found for name in named if name and (found := shutil.which(name))), None)
    if path is None:
        give_up("no chromium on PATH (or in VQA_CHROMIUM)")
    if importlib.util.find_spec("playwright") is None:
        give_up("the package playwright is not installed (pip install '.[test]')")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=arguments)
        yield running
        running.close()
