"""A synthetic benchmark: real H.264 clips of 8-30 s, questions of STAR's four kinds, true spans.

    scene.py      what a picture looks like: neutral backgrounds, one coloured shape at one place
    timeline.py   what a video shows when: a few short moments and long stretches of nothing
    questions.py  what is asked about it
    generate.py   seed -> mp4 files and questions

Same seed, same bytes (one x264 thread; the PyAV version belongs to the fingerprint).
"""
