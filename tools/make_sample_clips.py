"""The numbered clips that `vqa doctor` decodes: stages/video/samples/.

    python tools/make_sample_clips.py [--folder DIR]

Every frame is one shade of grey, by which its number is told (`stages.doctor.shade_of`).
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from stages.doctor import CLIP_FRAMES, SAMPLES, shade_of

WIDTH, HEIGHT, RATE = 64, 48, 8
ENCODERS = {
    "h264": ("libx264", {"g": "6", "bf": "0", "threads": "1", "crf": "18"}),
    "vp9": ("libvpx-vp9", {"g": "6", "cpu-used": "8", "threads": "1", "crf": "20", "b": "0"}),
    "av1": ("libsvtav1", {"g": "6", "preset": "10", "crf": "20"}),
}


def write(path: Path, encoder: str, options: dict[str, str]) -> None:
    """One clip of `CLIP_FRAMES` frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(CLIP_FRAMES):
            picture = np.full((HEIGHT, WIDTH, 3), shade_of(number), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def main() -> None:
    """Write all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("stages/video/samples"))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for codec, name in SAMPLES.items():
        encoder, options = ENCODERS[codec]
        write(folder / name, encoder, options)
        print(f"{folder / name}: {(folder / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
