"""`vqa serve` without a browser: its JSON, its limits, whom it refuses, what it leaves behind."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

OPTIONS = ("red", "blue", "green")
ATTEMPTS = 8
"""To be as quick as promised, on a machine that may be busy with other tests."""
QUESTION = "What color is the circle?"


@pytest.fixture(scope="module")
def seen(server: Any, clip: Path) -> dict[str, Any]:
    """The clip, looked at by the server."""
    reply = server.upload(clip)
    assert reply.status == 201, reply.body
    found: dict[str, Any] = reply.json
    return found


def video_of(server: Any, seen: dict[str, Any], clip: Path) -> str:
    """Its id; tests that make the server forget it do not disturb the others."""
    if server.ask(seen["video"], QUESTION).status == 404:
        seen |= server.upload(clip).json
    return str(seen["video"])


def test_it_says_where_it_is_and_who_answers(server: Any) -> None:
    assert server.facts["command"] == "serve"
    assert server.url.startswith("http://127.0.0.1:")
    told = server.send("GET", "/api/system").json
    assert told["system"] == server.facts["system"]
    assert told["system"]["name"] == "sevila"
    assert "generated shapes" in told["warning"]
    assert told["limits"]["upload_bytes"] == 3_000_000


def test_it_answers_as_vqa_ask_does(
    server: Any, seen: dict[str, Any], clip: Path, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    options = [part for text in OPTIONS for part in ("-o", text)]
    (alone,) = vqa("ask", clip, QUESTION, *options, "-w", tmp_path / "none").json["answers"]
    answer = server.ask(video_of(server, seen, clip), QUESTION, *OPTIONS).json
    for name in ("answer", "text", "rule", "question", "problem"):
        assert answer[name] == alone[name]
    shares = [option["probability"] for option in alone["options"]]
    assert [o["probability"] for o in answer["options"]] == pytest.approx(shares, abs=1e-4)
    assert [f["frame"] for f in answer["keyframes"]] == [f["frame"] for f in alone["keyframes"]]
    assert [f["time"] for f in answer["frames"]] == [f["time"] for f in alone["frames"]]


def test_every_frame_seen_has_a_picture_and_no_other_has(
    server: Any, seen: dict[str, Any], clip: Path
) -> None:
    video = video_of(server, seen, clip)
    answer = server.ask(video, QUESTION).json
    assert seen["seen"] == len(answer["frames"]) == 32
    for frame in answer["frames"][::8]:
        reply = server.send("GET", f"/api/videos/{video}/frames/{frame['frame']}.jpg")
        assert reply.headers["content-type"] == "image/jpeg"
        with Image.open(BytesIO(reply.body)) as picture:
            assert picture.size == (seen["width"], seen["height"])
    unseen = next(
        n for n in range(seen["frames"]) if n not in {f["frame"] for f in answer["frames"]}
    )
    assert server.send("GET", f"/api/videos/{video}/frames/{unseen}.jpg").status == 404


def test_a_further_question_takes_less_than_a_second(
    server: Any, seen: dict[str, Any], clip: Path
) -> None:
    video = video_of(server, seen, clip)
    taken: list[float] = []
    while not taken or (min(taken) >= 1 and len(taken) < ATTEMPTS):
        started = time.monotonic()
        assert server.ask(video, f"What is shape {len(taken)}?", *OPTIONS).status == 200
        taken.append(time.monotonic() - started)
    assert min(taken) < 1, taken


def test_no_upload_stays_on_disk(server: Any, seen: dict[str, Any], clip: Path) -> None:
    server.upload(clip.parent / clip.name)
    server.send("POST", "/api/videos", b"not a video")
    assert server.files() == []
    (folder,) = server.temporary.glob("vqa-serve-*")
    assert folder.stat().st_mode & 0o077 == 0


def test_the_video_not_asked_about_longest_is_forgotten(server: Any, clip: Path) -> None:
    first, second = (server.upload(clip).json["video"] for _ in range(2))
    assert server.ask(first, QUESTION).status == 200
    third = server.upload(clip).json["video"]
    assert server.ask(second, QUESTION).status == 404
    assert server.ask(first, QUESTION).status == server.ask(third, QUESTION).status == 200


# --- what it does not take -----------------------------------------------------------------------

NO_VIDEOS = {
    "text": b"no video\n" * 100,
    "page": b"<html><script>alert(1)</script></html>",
    # Playlists name other files and hosts.
    "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "cut": b"",
}


@pytest.mark.parametrize("name", NO_VIDEOS)
def test_what_is_no_video_is_refused_by_its_content(server: Any, name: str, clip: Path) -> None:
    body = NO_VIDEOS[name] or clip.read_bytes()[:700]
    reply = server.send("POST", "/api/videos", body, content_type="video/mp4")
    assert reply.status == reply.json["error"]["code"] == 415
    assert "this file" in reply.json["error"]["message"]
    assert str(server.temporary) not in reply.body.decode()
    assert b"root:" not in reply.body
    assert server.files() == []


def test_what_is_too_large_is_refused_whether_it_says_so_or_not(server: Any) -> None:
    block = bytes(1 << 16)
    said = server.send("POST", "/api/videos", b"", content_length="99999999999")
    assert said.status == 413
    assert "3 MB" in said.json["error"]["message"]
    assert said.headers["connection"] == "close"  # nobody waits behind what is still drained

    def endless() -> Any:
        for _ in range(50):  # 50 x 65,536 bytes are just more than the limit
            yield block

    silent = server.send("POST", "/api/videos", endless())  # in chunks, no length
    assert silent.status == 413
    assert server.files() == []


def test_an_upload_that_breaks_off_leaves_nothing(server: Any, clip: Path) -> None:
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST /api/videos HTTP/1.1\r\nHost: {server.address}\r\nContent-Length: 100000\r\n\r\n"
        )
        connection.sendall(head.encode() + b"x" * 1000)
        time.sleep(0.3)
    wait_until(lambda: not server.files())
    assert server.upload(clip).status == 201


def wait_until(happened: Callable[[], bool], seconds: float = 20.0) -> None:
    ends = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < ends
        time.sleep(0.05)


WRONG_QUESTIONS: list[tuple[Any, int, str]] = [
    ({"question": "q", "options": ["a"]}, 422, "no choice"),
    ({"question": "q", "options": ["a", " a"]}, 422, "the same"),
    ({"question": "q", "options": ["a", ""]}, 422, "empty"),
    ({"question": "  "}, 422, "empty"),
    ({"question": "q" * 2001}, 422, "2,000 at most"),
    ({"question": "q", "options": ["a", "b" * 501]}, 422, "500 at most"),
    ({"question": "q", "options": [str(n) for n in range(11)]}, 422, "10 at most"),
    ({"question": "\ud800"}, 422, "UTF-8"),
    ({"question": 3}, 400, "a text"),
    ({"question": "q", "video": 3}, 400, "a text"),
    ({"question": "q", "options": {}}, 400, "a list"),
    ({"question": "q", "options": 0}, 400, "a list"),
    ({"question": "q", "options": False}, 400, "a list"),
    ({"question": "q", "options": ""}, 400, "a list"),
    ({"question": "q", "options": "ab"}, 400, "a list"),
    ({"question": "q", "options": [None, None]}, 400, "a list"),
    ({"question": "q", "video": "../../etc/passwd"}, 404, "not kept"),
    ([], 400, "object"),
    ({"question": "q" * 70_000}, 413, "64 kB, which is the limit"),
]


@pytest.mark.parametrize(("record", "status", "named"), WRONG_QUESTIONS)
def test_a_wrong_question_is_one_message(
    server: Any, seen: dict[str, Any], clip: Path, record: Any, status: int, named: str
) -> None:
    if isinstance(record, dict):
        record = {"video": video_of(server, seen, clip)} | record
    reply = server.send("POST", "/api/answers", json.dumps(record), content_type="application/json")
    assert reply.status == reply.json["error"]["code"] == status
    assert named in reply.json["error"]["message"]
    assert reply.json["error"]["hint"] == ""


def test_what_is_not_json_or_not_said_to_be_is_refused(server: Any) -> None:
    as_json = {"content_type": "application/json"}
    assert server.send("POST", "/api/answers", b"{", **as_json).status == 400
    assert server.send("POST", "/api/answers", b"[" * 50_000, **as_json).status == 400
    assert server.send("POST", "/api/answers", b"\xff\xfe", **as_json).status == 400
    assert server.send("POST", "/api/answers", b"{}", content_type="text/plain").status == 415


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/api/videos/../../../../etc/passwd", 404),
        ("GET", "/page.css/../../../serve.py", 404),
        ("GET", "/api/videos/x/frames/%2e%2e%2fpasswd.jpg", 404),
        ("POST", "/", 405),
        ("PUT", "/api/videos", 405),
        ("OPTIONS", "/api/videos", 405),
    ],
)
def test_other_addresses_are_not_there(server: Any, method: str, path: str, status: int) -> None:
    assert server.send(method, path).status == status


# --- whom it does not answer ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.1.evil.example:{port}",
        "0.0.0.0:{port}",
        "",
    ],
)
def test_another_name_of_this_machine_is_not_answered(server: Any, host: str) -> None:
    port = server.address.split(":")[1]
    reply = server.send("GET", "/api/system", host=host.format(port=port))
    assert reply.status == 403
    assert b"system" not in reply.body


def test_localhost_is_its_name_too(server: Any) -> None:
    port = server.address.split(":")[1]
    assert server.send("GET", "/api/system", host=f"localhost:{port}").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "https://{address}"},
        {"origin": "http://localhost:{port}"},  # the page of the other name is another origin
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/api/videos"), ("GET", "/api/system")])
def test_other_sites_pages_are_not_answered(
    server: Any, headers: dict[str, str], method: str, path: str
) -> None:
    port = server.address.split(":")[1]
    sent = {name: text.format(address=server.address, port=port) for name, text in headers.items()}
    reply = server.send(method, path, b"x" if method == "POST" else None, **sent)
    assert reply.status == 403
    assert "access-control-allow-origin" not in reply.headers


def test_a_link_on_another_site_may_open_the_page_and_nothing_else(server: Any) -> None:
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert server.send("GET", "/", **link).status == 200
    assert server.send("GET", "/api/system", **link).status == 403


@pytest.mark.parametrize("path", ["/", "/page.js", "/api/system", "/nothing"])
def test_every_answer_says_what_a_browser_must_not_do(server: Any, path: str) -> None:
    headers = server.send("GET", path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in headers


def test_it_listens_on_this_machine_only(server: Any) -> None:
    port = int(server.address.split(":")[1])
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as other:
        # The same port of every other address is still free.
        other.bind(("127.0.0.2", port))


# --- its start and its end -----------------------------------------------------------------------


def test_when_it_is_stopped_it_takes_everything_with_it(
    tmp_path: Path, starting_alone: Any, stopping: Any
) -> None:
    """With SIGTERM; the server of the other tests ends with SIGINT, as by Ctrl-C."""
    server = starting_alone(tmp_path / "temporary")
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port))) as connection:  # in the middle of an upload
        head = (
            f"POST /api/videos HTTP/1.1\r\nHost: {server.address}\r\nContent-Length: 100000\r\n\r\n"
        )
        connection.sendall(head.encode() + b"x" * 1000)
        wait_until(lambda: bool(server.files()))
        assert stopping(server, signal.SIGTERM) == (0, "")
    assert server.files() == list(server.temporary.glob("vqa-serve-*")) == []


def test_a_second_signal_ends_it_at_once_and_leaves_nothing(
    tmp_path: Path, starting_alone: Any, stopping: Any
) -> None:
    server = starting_alone(tmp_path / "temporary", slow=60)
    server.process.send_signal(signal.SIGINT)
    assert server.process.stdout.readline() == "stopping\n"
    assert stopping(server, signal.SIGINT) == (130, "")
    assert list(server.temporary.iterdir()) == []


def test_what_strangers_send_is_no_news(tmp_path: Path, starting_alone: Any, stopping: Any) -> None:
    server = starting_alone(tmp_path / "temporary")
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"\x16\x03\x01 no HTTP\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert stopping(server) == (0, "")


@pytest.mark.parametrize("seconds", ["inf", "nan", "1e300", "0.5"])
def test_a_time_that_no_clock_measures_is_refused(
    seconds: str, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    outcome = vqa("serve", "--max-seconds", seconds, "--port", 0, "-w", tmp_path)
    assert outcome.code == outcome.json["error"]["code"] == 2


def test_a_port_that_is_taken_is_told(server: Any, vqa: Callable[..., Any], tmp_path: Path) -> None:
    outcome = vqa("serve", "--port", server.address.split(":")[1], "-w", tmp_path)
    assert outcome.code == outcome.json["error"]["code"] == 5
    assert "--port 0" in outcome.json["error"]["hint"]


def test_without_the_extra_it_says_how_to_get_it(
    vqa: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "starlette", None)
    outcome = vqa("serve", "-w", tmp_path)
    assert outcome.code == outcome.json["error"]["code"] == 5
    assert outcome.json["error"]["hint"] == "pip install 'vqa-toolkit[serve]'"


def test_what_vqa_ask_refuses_is_refused_before_it_starts(
    vqa: Callable[..., Any], tmp_path: Path
) -> None:
    for arguments, code in ((("--system", "vlap"), 4), (("--select", "oracle"), 2),
                            (("--keep", "33"), 2), (("--backbone", "absent"), 2)):  # fmt: skip
        outcome = vqa("serve", "--port", 0, *arguments, "-w", tmp_path)
        assert outcome.code == outcome.json["error"]["code"] == code


def test_the_page_about_it_names_every_field(server: Any, seen: dict[str, Any], clip: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/serve.md").read_text(encoding="utf-8")
    answer = server.ask(video_of(server, seen, clip), QUESTION, *OPTIONS).json
    told = server.send("GET", "/api/system").json
    own = set(answer) - {"id", "question", "answer", "text", "options", "keyframes", "frames",
                         "rule", "tied", "seconds", "problem"}  # fmt: skip
    named = {*told, *told["limits"], *seen, *own}
    assert not {key for key in named if f"`{key}`" not in text}
