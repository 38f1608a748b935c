"""What a video is, before any frame is kept: size, rotation and when each frame is presented.

Reads a video file or a folder of frames; writes nothing. The packet index is read without decoding
(a few milliseconds a minute of video); one frame is decoded to learn the rotation and to know that
the file can be decoded at all.
"""

from __future__ import annotations

import errno
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import VideoError

# An 8K frame is 7680 x 4320. A header may declare anything, and buffers are allocated from it.
MAX_PIXELS = 8192 * 4352
MAX_SIDE = 16384

# Playlists and scripts among FFmpeg's formats name other files and hosts; only containers may open.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,ivf"
# Containers that store a presentation time per frame. The others' packet times are guesses, so
# their index comes from decoding.
_EXACT_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm"})
# Their clocks start anywhere.
_FLOATING_CLOCKS = frozenset({"mpegts", "mpeg"})

# These raise on damage when told to "explode". The others only complain in the log, and motion JPEG
# then returns half a picture.
EXPLODING_CODECS = frozenset({"h264", "hevc", "vp9", "av1"})

FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
PICTURE_SUFFIXES = FRAME_SUFFIXES | {".gif", ".svg", ".bmp", ".webp", ".tif", ".tiff"}
FRAME_FOLDER_FPS = 3.0


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """One video as a viewer sees it: only presented frames, after rotation.

    Times are seconds on the file's own timeline (`pts * time_base`), not shifted to the first
    frame: a picture that appears 1.075 s after the sound has `times[0] == 1.075`. Only MPEG
    streams, whose clock starts anywhere, count from the container's start.
    """

    codec: str
    container: str
    width: int
    """Pixels as presented, after rotation."""
    height: int
    rotation: int
    """Degrees clockwise by which decoded frames are turned: 0, 90, 180 or 270."""
    pts: NDArray[np.int64]
    """`[frames]` ascending presentation time stamps in `time_base` units, as decoders give them."""
    time_base: Fraction
    clock_start: Fraction
    """Seconds subtracted from `pts * time_base`; 0 but for MPEG streams."""
    duration: float
    """Seconds from the first frame's appearance to the last frame's end."""
    average_fps: float
    constant_rate: bool
    num_packets: int
    """Packets in the file, presented or not."""
    has_edit_list: bool
    """Some packets are decoded but not presented, or the container hides some altogether."""
    stream_index: int
    num_video_streams: int
    seekable: bool
    """The index comes from packets, and key frames can be sought. Otherwise read in order."""
    closed_groups: bool
    """From every key frame on nothing needs, or is shown before, an earlier picture. Open groups
    and rolling intra refresh break this, and decord returns wrong frames on them."""
    key_frames: NDArray[np.int64] = field(repr=False)
    """`[key frames, 2]` presentation and decoding time stamps where decoding can start afresh."""
    frame_files: tuple[str, ...] = field(default=(), repr=False)
    """Names of the images, for a folder of frames."""

    @property
    def num_frames(self) -> int:
        return len(self.pts)

    @property
    def times(self) -> NDArray[np.float64]:
        """`float64[frames]` presentation times in seconds."""
        seconds = self.pts * self.time_base.numerator / self.time_base.denominator
        return np.asarray(seconds - float(self.clock_start), dtype=np.float64)

    def as_json(self) -> dict[str, Any]:
        """The facts without the per-frame tables."""
        return {
            "codec": self.codec,
            "container": self.container,
            "width": self.width,
            "height": self.height,
            "rotation": self.rotation,
            "frames": self.num_frames,
            "duration": self.duration,
            "average_fps": self.average_fps,
            "constant_rate": self.constant_rate,
            "packets": self.num_packets,
            "has_edit_list": self.has_edit_list,
            "video_streams": self.num_video_streams,
            "first_time": float(self.times[0]),
            "last_time": float(self.times[-1]),
        }


def probe(path: Path, folder_fps: float = FRAME_FOLDER_FPS) -> VideoInfo:
    """What the video at `path` is.

    Args:
        path: A video file, or a folder of jpg or png frames in order of their names.
        folder_fps: Frames per second of a folder (TVQA ships 3).

    Raises:
        VideoError: not a readable video; carries the path and the decoder's own words.
    """
    mode = _file_mode(path)
    if stat.S_ISDIR(mode):
        return _probe_folder(path, folder_fps)
    if not stat.S_ISREG(mode):
        raise VideoError(f"{path}: not a regular file (a pipe, socket or device)")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty")
    return _probe_file(path)


def _refusal(path: Path, error: BaseException) -> str:
    """Why FFmpeg opens nothing; of a format that is not let in it says `Invalid argument` only."""
    if getattr(error, "errno", None) != errno.EINVAL:
        return decoder_words(error)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return "one picture is no video; a folder of pictures is"
    return "not a video (no moving pictures found)"


@contextmanager
def open_video(path: Path, **mov_options: str) -> Iterator[tuple[Any, Any]]:
    """An open container and its main video stream, decoding with one thread.

    The main stream is the one FFmpeg calls best, as decord takes it too.

    Raises:
        VideoError: FFmpeg cannot read the file or it has no video stream; also for errors of
            FFmpeg inside the `with` block.
    """
    import av

    options = {
        "protocol_whitelist": "file",
        "format_whitelist": CONTAINERS,
        "max_pixels": str(MAX_PIXELS),
        **mov_options,
    }
    try:
        with av.open(str(path.absolute()), options=options, metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None:
                raise VideoError(f"{path}: there is no video stream in the file")
            if stream.codec_context is None:
                raise VideoError(f"{path}: FFmpeg has no decoder for this video")
            stream.codec_context.thread_count = 1
            _refuse_absurd_size(path, stream.codec_context.width, stream.codec_context.height)
            yield container, stream
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError(f"{path}: {_refusal(path, error)}") from None


def be_strict(stream: Any) -> None:
    """Let the decoder raise on damage, where it can, instead of patching the picture."""
    context = stream.codec_context
    options = {"max_pixels": str(MAX_PIXELS)}
    if context.codec.canonical_name in EXPLODING_CODECS:
        options["err_detect"] = "explode"
    context.options = options


def decoder_words(error: BaseException) -> str:
    """What a decoder said, in one line."""
    words = str(getattr(error, "strerror", None) or error)
    log = getattr(error, "log", None)
    if log:
        words = f"{words} ({log[1]}: {str(log[2]).strip()})"
    return " ".join(words.split()) or type(error).__name__


def _file_mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError) as error:
        raise VideoError(f"{path}: {decoder_words(error)}") from None


def _refuse_absurd_size(path: Path, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise VideoError(f"{path}: the video declares no picture size ({width} x {height})")
    if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        raise VideoError(f"{path}: the video declares {width} x {height} pixels, above the limit")


@dataclass(frozen=True)
class _PacketIndex:
    """The packets of the main stream, in file order."""

    pts: list[int | None]
    dts: list[int | None]
    durations: list[int]
    key: list[bool]
    """A key frame at which a decoder may start afresh."""
    discard: list[bool]
    cut_short: bool
    closed: bool


@dataclass(frozen=True)
class _Header:
    """What the container says about the main stream."""

    codec: str
    container: str
    stream_index: int
    num_video_streams: int
    time_base: Fraction
    average_rate: float
    declared_frames: int
    start_seconds: Fraction


def _probe_file(path: Path) -> VideoInfo:
    with open_video(path) as (container, stream):
        header = _read_header(container, stream)
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        first = _FirstFrame(path)
        packets = _read_packets(container, stream, first)
    names = frozenset(header.container.split(","))
    hidden = "mov" in names and len(packets.pts) < header.declared_frames
    if packets.cut_short or (hidden and not _all_samples_present(path, header.declared_frames)):
        raise VideoError(
            f"{path}: the file ends early: {len(packets.pts)} frames are there"
            + (f" of {header.declared_frames}" if header.declared_frames else "")
        )
    presented = first.presented()
    exact = bool(names & _EXACT_CONTAINERS)
    shown = [t for t, discard in zip(packets.pts, packets.discard, strict=True) if not discard]
    trusted = exact and None not in shown and len(set(shown)) == len(shown)
    # VP8 may hold packets that show no picture.
    trusted = trusted and header.codec != "vp8"
    pts = np.sort(np.array(shown, dtype=np.int64)) if trusted else _decoded_pts(path, header)
    if len(pts) == 0:
        raise VideoError(f"{path}: no frame of the video is presented")
    return _assemble(header, packets, pts, trusted, hidden, presented)


def _read_header(container: Any, stream: Any) -> _Header:
    names = frozenset(str(container.format.name).split(","))
    tick = Fraction(stream.time_base)
    start = Fraction(0)
    if names & _FLOATING_CLOCKS and container.start_time is not None:
        start = round(Fraction(container.start_time, 1_000_000) / tick) * tick
    return _Header(
        codec=str(stream.codec_context.codec.canonical_name),
        container=str(container.format.name),
        stream_index=int(stream.index),
        num_video_streams=len(container.streams.video),
        time_base=tick,
        average_rate=float(stream.average_rate or 0),
        declared_frames=int(stream.frames),
        start_seconds=start,
    )


@contextmanager
def ffmpeg_log() -> Iterator[list[Any]]:
    """What FFmpeg logs meanwhile as (level, who, words), repeated messages too."""
    import av

    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.INFO)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as logs:
            yield logs
    finally:
        av.logging.set_skip_repeated(skips)
        av.logging.set_level(level)


def _read_packets(container: Any, stream: Any, first: _FirstFrame | None = None) -> _PacketIndex:
    pts: list[int | None] = []
    dts: list[int | None] = []
    durations: list[int] = []
    key: list[bool] = []
    discard: list[bool] = []
    cut_short, closed = False, True
    nal_length = _nal_length_size(stream)
    with ffmpeg_log() as logs:
        for packet in container.demux(stream):
            if first is not None:
                # Opening the file once more for this took as long as reading all packets.
                first.take(packet)
            if packet.size == 0:
                continue
            afresh = bool(packet.is_keyframe)
            if afresh and nal_length:
                afresh = _holds_idr(bytes(packet), nal_length)
                closed = closed and afresh
            pts.append(packet.pts)
            dts.append(packet.dts)
            durations.append(int(packet.duration or 0))
            key.append(afresh)
            discard.append(bool(packet.is_discard))
            cut_short = cut_short or bool(packet.is_corrupt)
    # Matroska tells of a cut file only in its log.
    cut_short = cut_short or any("ended prematurely" in str(entry[2]) for entry in logs)
    if not pts:
        raise VideoError(f"{container.name}: the video stream holds no packets")
    closed = closed and not _shown_before_their_key_frame(pts, key)
    return _PacketIndex(pts, dts, durations, key, discard, cut_short, closed)


def _nal_length_size(stream: Any) -> int:
    """Bytes of each NAL unit's length in H.264 packets of MP4 and Matroska; 0 for anything else."""
    context = stream.codec_context
    extradata = context.extradata
    if context.codec.canonical_name != "h264" or not extradata or len(extradata) < 5:
        return 0
    return (extradata[4] & 3) + 1 if extradata[0] == 1 else 0


def _holds_idr(packet: bytes, length_size: int) -> bool:
    """Whether an H.264 packet holds an IDR slice: containers also flag mere recovery points."""
    at = 0
    while at + length_size < len(packet):
        size = int.from_bytes(packet[at : at + length_size], "big")
        if packet[at + length_size] & 31 == 5:
            return True
        at += length_size + size
    return False


def _shown_before_their_key_frame(pts: list[int | None], key: list[bool]) -> bool:
    """Whether some packet after a key frame, in file order, is presented before it."""
    latest: int | None = None
    for stamp, is_key in zip(pts, key, strict=True):
        if stamp is None:
            continue
        if is_key:
            latest = stamp
        elif latest is not None and stamp < latest:
            return True
    return False


def _all_samples_present(path: Path, declared: int) -> bool:
    """Whether an MP4 holds all the frames its header declares once edit lists are ignored."""
    with open_video(path, ignore_editlist="1") as (container, stream):
        packets = _read_packets(container, stream)
        return not packets.cut_short and len(packets.pts) >= declared


class _FirstFrame:
    """The first frame that decodes, looked for while packets pass by."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: tuple[int, int, int] | None = None
        self._words = "no frame can be decoded"

    def take(self, packet: Any) -> None:
        """Decode one more packet, if no frame was found yet."""
        import av

        if self._found is not None:
            return
        try:
            frames = packet.decode()
        except av.error.InvalidDataError as error:
            self._words = decoder_words(error)
            return
        if frames:
            self._found = _presented_size(self._path, frames[0])

    def presented(self) -> tuple[int, int, int]:
        """Presented width and height, and clockwise rotation.

        Raises:
            VideoError: No frame could be decoded.
        """
        if self._found is None:
            raise VideoError(f"{self._path}: {self._words}")
        return self._found


def _presented_size(path: Path, frame: Any) -> tuple[int, int, int]:
    _refuse_absurd_size(path, frame.width, frame.height)
    rotation = clockwise(frame.rotation)
    if rotation in (90, 270):
        return int(frame.height), int(frame.width), rotation
    return int(frame.width), int(frame.height), rotation


def clockwise(counter_clockwise: float) -> int:
    """The right angle to turn a frame by; angles that are no right angle are left alone (0)."""
    angle = round(-counter_clockwise) % 360
    return angle if angle in (90, 180, 270) else 0


def _decoded_pts(path: Path, header: _Header) -> NDArray[np.int64]:
    """The time stamps that decoding gives, in order.

    AVI holds none and FFmpeg's guesses run backwards: its frames are evenly spaced. Anywhere else
    times that are missing or run backwards are damage.
    """
    stamps: list[int | None] = []
    with open_video(path) as (container, stream):
        be_strict(stream)
        stamps.extend(frame.pts for frame in container.decode(stream))
    known = [stamp for stamp in stamps if stamp is not None]
    if len(known) == len(stamps) and bool(np.all(np.diff(known) > 0)):
        return np.array(known, dtype=np.int64)
    if header.container != "avi":
        raise VideoError(f"{path}: presentation times are missing or run backwards")
    ticks = 1 / (header.average_rate or 25.0) / float(header.time_base)
    return np.round(np.arange(len(stamps)) * max(ticks, 1.0)).astype(np.int64)


def _assemble(
    header: _Header,
    packets: _PacketIndex,
    pts: NDArray[np.int64],
    trusted: bool,
    hidden: bool,
    presented: tuple[int, int, int],
) -> VideoInfo:
    times = np.asarray(pts * float(header.time_base), dtype=np.float64)
    fps, constant = frame_rate(times, header.average_rate, float(header.time_base))
    last = packets.durations[-1] * float(header.time_base) or (1 / fps if fps else 0.0)
    stamps = zip(packets.pts, packets.dts, packets.key, strict=True)
    keys = [(p, p if d is None else d) for p, d, key in stamps if key and p is not None]
    return VideoInfo(
        codec=header.codec,
        container=header.container,
        width=presented[0],
        height=presented[1],
        rotation=presented[2],
        pts=pts,
        time_base=header.time_base,
        clock_start=header.start_seconds,
        duration=float(times[-1] - times[0]) + last,
        average_fps=fps,
        constant_rate=constant,
        num_packets=len(packets.pts),
        has_edit_list=hidden or any(packets.discard),
        stream_index=header.stream_index,
        num_video_streams=header.num_video_streams,
        seekable=trusted,
        closed_groups=packets.closed,
        key_frames=np.array(sorted(keys), dtype=np.int64).reshape(-1, 2),
    )


def frame_rate(times: NDArray[np.float64], declared: float, tick: float) -> tuple[float, bool]:
    """(frames per second, whether the rate is constant).

    Constant: no step between frames differs from the median by more than a tenth or two ticks of
    the clock, and no frame drifts half a frame away from `i / fps`. The declared average rate is
    kept where it fits, because the published frame rule multiplies by it.
    """
    if len(times) < 2:
        return declared, True
    steps = np.diff(times)
    step = float(np.median(steps))
    even = bool(np.all(np.abs(steps - step) <= max(0.1 * step, 2 * tick)))
    for fps in (declared, (len(times) - 1) / float(times[-1] - times[0])):
        if fps <= 0:
            continue
        drift = np.abs(times - times[0] - np.arange(len(times)) / fps)
        if even and float(drift.max()) <= 0.5 / fps:
            return fps, True
    return declared or (len(times) - 1) / float(times[-1] - times[0]), False


def _probe_folder(path: Path, fps: float) -> VideoInfo:
    names = _frame_names(path)
    if not names:
        raise VideoError(f"{path}: a folder without jpg or png frames")
    width, height = image_size(path / names[0])
    rate = Fraction(fps).limit_denominator(1001)
    if rate <= 0:
        raise VideoError(f"{path}: frames per second of a folder must be above 0, not {fps}")
    count = len(names)
    return VideoInfo(
        codec="images",
        container="folder",
        width=width,
        height=height,
        rotation=0,
        pts=np.arange(count, dtype=np.int64),
        time_base=1 / rate,
        clock_start=Fraction(0),
        duration=count / float(rate),
        average_fps=float(rate),
        constant_rate=True,
        num_packets=count,
        has_edit_list=False,
        stream_index=0,
        num_video_streams=1,
        seekable=True,
        closed_groups=True,
        key_frames=np.repeat(np.arange(count, dtype=np.int64)[:, None], 2, axis=1),
        frame_files=tuple(names),
    )


def _frame_names(path: Path) -> list[str]:
    """Image names in number order: `frame_2.jpg` before `frame_10.jpg`."""
    root = path.resolve()
    names = []
    try:
        for image in path.iterdir():
            if image.suffix.lower() not in FRAME_SUFFIXES or image.name.startswith("."):
                continue
            if image.is_symlink() and not image.resolve().is_relative_to(root):
                raise VideoError(f"{image}: a link that leaves the folder of frames")
            names.append(image.name)
    except (OSError, RuntimeError) as error:
        raise VideoError(f"{path}: {decoder_words(error)}") from None
    return sorted(names, key=_in_number_order)


def _in_number_order(name: str) -> tuple[tuple[tuple[int, str], ...], str]:
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((int(p), "") if p.isdigit() else (-1, p) for p in parts), name


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image as shown, read from its header.

    Raises:
        VideoError: not a regular file, not a jpg or png, or of an absurd size.
    """
    with open_image(path) as image:
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (image.height, image.width) if turned else (image.width, image.height)


@contextmanager
def open_image(path: Path) -> Iterator[Any]:
    """An opened, not yet decoded image; errors inside the `with` block become `VideoError`."""
    from PIL import Image

    if not stat.S_ISREG(_file_mode(path)):
        raise VideoError(f"{path}: not a regular file")
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            _refuse_absurd_size(path, image.width, image.height)
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError(f"{path}: {decoder_words(error)}") from None
