"""Tiny real videos of many kinds, made once per session, and a plain decoder to judge by."""

from __future__ import annotations

import functools
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import av.filter
import numpy as np
import pytest
from numpy.typing import NDArray

WIDTH, HEIGHT, FRAMES, RATE = 64, 48, 24, 12


@dataclass(frozen=True)
class Encoding:
    file: str
    codec: str
    pix_fmt: str = "yuv420p"
    options: tuple[tuple[str, str], ...] = (("g", "6"), ("threads", "1"))
    container: tuple[tuple[str, str], ...] = ()


QUIET_HEVC = (("g", "6"), ("x265-params", "log-level=none:pools=1"))
ENCODINGS = (
    Encoding("h264.mp4", "libx264"),
    Encoding("h264_front.mp4", "libx264", container=(("movflags", "faststart"),)),
    Encoding("h264.mkv", "libx264"),
    Encoding("h264.ts", "libx264"),
    Encoding("mpeg4.avi", "mpeg4"),
    Encoding("mpeg4.mp4", "mpeg4", options=(("g", "6"), ("bf", "2"))),
    Encoding("vp8.webm", "libvpx", options=(("g", "6"), ("cpu-used", "8"))),
    Encoding("vp9.webm", "libvpx-vp9", options=(("g", "6"), ("cpu-used", "8"))),
    Encoding("mjpeg.mov", "mjpeg", "yuvj420p", ()),
    Encoding("hevc.mp4", "libx265", options=QUIET_HEVC),
    Encoding("av1.mp4", "libsvtav1", options=(("g", "6"), ("preset", "12"))),
    Encoding("h264_10bit.mp4", "libx264", "yuv420p10le"),
)


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """A frame that moves and differs from every other one, and is not symmetric in any way."""
    rows, columns = np.mgrid[0:height, 0:width]
    red = (columns * 3 + number * 7) % 256
    green = (rows * 4 + number * 11) % 256
    blue = np.where((rows < height // 3) & (columns < width // 2), 230, (number * 9) % 200)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def write_video(
    path: Path,
    encoding: Encoding,
    stamps: list[int] | None = None,
    frames: int = FRAMES,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Path:
    with av.open(str(path), "w", options=dict(encoding.container)) as container:
        stream = container.add_stream(encoding.codec, rate=RATE, options=dict(encoding.options))
        stream.width, stream.height = size
        stream.pix_fmt = encoding.pix_fmt
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts = number if stamps is None else stamps[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turned(source: Path, target: Path, degrees: int) -> Path:
    """A copy of an MP4 whose display matrix turns it clockwise."""
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    content = bytearray(source.read_bytes())
    at = content.index(b"tkhd") + 44
    one = 1 << 16
    matrix = (cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)
    content[at : at + 36] = struct.pack(">9i", *matrix)
    target.write_bytes(content)
    return target


def with_edit_list(source: Path, target: Path, skipped: int) -> Path:
    """A copy of an MP4 that presents all but its first `skipped` frames."""
    content = bytearray(source.read_bytes())
    at = content.index(b"elst") + 12
    _, media_time = struct.unpack_from(">Ii", content, at)
    timescale = struct.unpack_from(">I", content, content.index(b"mdhd") + 16)[0]
    movie_scale = struct.unpack_from(">I", content, content.index(b"mvhd") + 16)[0]
    shown = (FRAMES - skipped) * movie_scale // RATE
    struct.pack_into(">Ii", content, at, shown, media_time + skipped * timescale // RATE)
    target.write_bytes(content)
    return target


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 4096), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def huge_jpeg_dimensions(source: Path, target: Path, side: int) -> Path:
    """A motion JPEG whose sample entry and pictures declare side x side pixels."""
    content = bytearray(source.read_bytes())
    at = content.find(b"\xff\xc0\x00\x11\x08")
    while at >= 0:
        struct.pack_into(">HH", content, at + 5, side, side)
        at = content.find(b"\xff\xc0\x00\x11\x08", at + 1)
    at = content.index(b"stsd") + 12
    struct.pack_into(">HH", content, at + 32, side, side)
    target.write_bytes(content)
    return target


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares width x height pixels and holds almost none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One small video per encoding this PyAV can write, by file name."""
    folder = tmp_path_factory.mktemp("healthy")
    made = {}
    for encoding in ENCODINGS:
        if encoding.codec in av.codecs_available:
            made[encoding.file] = write_video(folder / encoding.file, encoding)
    return made


@pytest.fixture(scope="session")
def shared_videos() -> list[Path]:
    """The real videos beside the checkout."""
    import json

    shared = os.environ.get("VQA_SHARED") or Path(__file__).resolve().parents[2] / "../shared"
    listing = Path(shared) / "data" / "videos" / "videos.json"
    if not listing.is_file():
        pytest.skip("the shared data are not here")
    return [listing.parent / row["file"] for row in json.loads(listing.read_text())]


PlainFrames = Callable[[Path, int, int], dict[float, NDArray[np.uint8]]]


@pytest.fixture(scope="session")
def plain_frames() -> PlainFrames:
    return decode_plainly


@functools.lru_cache(maxsize=40)
def decode_plainly(path: Path, width: int, height: int) -> dict[float, NDArray[np.uint8]]:
    """{presentation time: scaled RGB} of everything that decodes, front to back, no seeking.

    Damaged packets are passed over and concealed pictures are kept, as a player does it.
    """
    shown: dict[float, NDArray[np.uint8]] = {}
    try:
        options = {"format_whitelist": "mov,matroska,avi,mpegts"}
        with av.open(str(path), options=options, metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None:
                return shown
            stream.codec_context.thread_count = 1
            for frame in _tolerant(container, stream):
                if frame.time is not None:
                    shown[round(frame.time, 6)] = scaled(frame, width, height)
    except (av.error.FFmpegError, ValueError):
        return shown
    return shown


def _tolerant(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            continue


def scaled(frame: av.VideoFrame, width: int, height: int) -> NDArray[np.uint8]:
    turn = {
        90: "transpose=cclock,",
        180: "hflip,vflip,",
        -90: "transpose=clock,",
        -180: "hflip,vflip,",
    }
    chain = (
        turn.get(round(frame.rotation), "") + f"scale={width}:{height}:flags=bilinear,format=rgb24"
    )
    graph = av.filter.Graph()
    last = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    for step in [*chain.split(","), "buffersink"]:
        name, _, arguments = step.partition("=")
        node = graph.add(name, arguments) if arguments else graph.add(name)
        last.link_to(node)
        last = node
    graph.configure()
    graph.push(frame)
    return graph.pull().to_ndarray()


def cut(content: bytes, rng: np.random.Generator, percent: int) -> bytes:
    return content[: len(content) * percent // 100]


def flip(content: bytes, rng: np.random.Generator, count: int) -> bytes:
    damaged = bytearray(content)
    for at in rng.integers(0, len(content), count):
        damaged[at] ^= int(rng.integers(1, 256))
    return bytes(damaged)


def zero(content: bytes, rng: np.random.Generator, length: int) -> bytes:
    at = int(rng.integers(0, len(content) - length))
    return content[:at] + bytes(length) + content[at + length :]


DAMAGES = (
    *((cut, percent) for percent in (1, 10, 30, 50, 70, 90, 99)),
    *((flip, count) for count in (1, 1, 2, 4, 8, 16, 64)),
    *((zero, length) for length in (8, 64, 200, 500)),
)


def write_damaged(folder: Path, healthy: dict[str, Path]) -> list[Path]:
    """Copies of every healthy file, each hurt in another way; the same ones in every run."""
    paths = []
    for order, (file, source) in enumerate(healthy.items()):
        content = source.read_bytes()
        for number, (damage, amount) in enumerate(DAMAGES):
            rng = np.random.default_rng([order, number])
            path = folder / f"{damage.__name__}{number}_{amount}_{file}"
            path.write_bytes(damage(content, rng, min(amount, len(content) - 1)))
            paths.append(path)
    return paths


def write_oddities(folder: Path, healthy: dict[str, Path]) -> list[Path]:
    """Things that are no plain video: pipes, playlists, bombs, sound."""
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video")
    (folder / "playlist.mp4").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{healthy['h264.ts']}\n#EXT-X-ENDLIST\n"
    )
    (folder / "script.mp4").write_text(f"ffconcat version 1.0\nfile {healthy['h264.mp4']}\n")
    (folder / "noise.mp4").write_bytes(np.random.default_rng(1).bytes(5000))
    (folder / "zeros.mp4").write_bytes(bytes(5000))
    (folder / "folder.mp4").mkdir()
    bomb = folder / "bomb_folder"
    bomb.mkdir()
    (bomb / "0.png").write_bytes(png_header(65000, 65000))
    broken = folder / "broken_folder"
    broken.mkdir()
    (broken / "0.jpg").write_bytes(b"\xff\xd8\xff")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "device.mp4").symlink_to("/dev/zero")
    write_sound(folder / "sound.mp4")
    if "mjpeg.mov" in healthy:
        for side in (9000, 65500):
            huge_jpeg_dimensions(healthy["mjpeg.mov"], folder / f"huge{side}.mov", side)
    return sorted(folder.iterdir())


def write_unusual(folder: Path, healthy: dict[str, Path]) -> list[Path]:
    """Sound videos that trap careless readers."""
    plain = healthy["h264.mp4"]
    paths = [turned(plain, folder / f"turned{d}.mp4", d) for d in (90, 180, 270)]
    paths += [with_edit_list(plain, folder / f"edit{n}.mp4", n) for n in (1, 5, 13, 23)]
    paths.append(write_video(folder / "single.mp4", ENCODINGS[0], frames=1))
    stamps = [number + number // 2 for number in range(FRAMES)]
    paths.append(write_video(folder / "variable.mkv", ENCODINGS[2], stamps))
    for file in ("h264.mkv", "mpeg4.avi", "vp9.webm"):
        if file in healthy:
            wrong_name = folder / f"{Path(file).stem}_called.mp4"
            wrong_name.write_bytes(healthy[file].read_bytes())
            paths.append(wrong_name)
    return paths


@dataclass(frozen=True)
class Corpus:
    damaged: list[Path]
    oddities: list[Path]
    unusual: list[Path]


@pytest.fixture(scope="session")
def corpus(healthy: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """More than 200 files that a careless reader hangs, crashes or errs on."""
    root = tmp_path_factory.mktemp("corpus")
    folders = {name: root / name for name in ("damaged", "oddities", "unusual")}
    for folder in folders.values():
        folder.mkdir()
    return Corpus(
        write_damaged(folders["damaged"], healthy),
        write_oddities(folders["oddities"], healthy),
        write_unusual(folders["unusual"], healthy),
    )


@pytest.fixture(scope="session")
def turn() -> Callable[[Path, Path, int], Path]:
    return turned


@pytest.fixture(scope="session")
def edit() -> Callable[[Path, Path, int], Path]:
    return with_edit_list


@pytest.fixture(scope="session")
def variable_rate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every third frame is missing, and one gap is long."""
    stamps = [number + number // 2 + (12 if number > 15 else 0) for number in range(FRAMES)]
    path = tmp_path_factory.mktemp("variable") / "variable.mp4"
    return write_video(path, ENCODINGS[0], stamps)


@pytest.fixture(scope="session")
def late_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first frame appears after one second."""
    path = tmp_path_factory.mktemp("late") / "late.mkv"
    return write_video(path, ENCODINGS[2], [RATE + number for number in range(FRAMES)])


@pytest.fixture(scope="session")
def make() -> Callable[..., Path]:
    """make(path, codec, options, frames): a video of another encoding."""

    def write(path: Path, codec: str, options: dict[str, str], frames: int = FRAMES) -> Path:
        encoding = Encoding(path.name, codec, options=tuple(options.items()))
        return write_video(path, encoding, frames=frames)

    return write
