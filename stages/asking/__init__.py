"""One video and a few questions, without a workspace: what `vqa ask` is made of.

    request.py    whom to ask: weights or a backbone as it is, and how many frames; no torch
    video.py      the video's frames, decoded in a process of their own; no torch
    questions.py  what is asked, from the command line or a file
    answers.py    what was answered, as JSON
    pictures.py   the kept frames as PNG files and inside a page
    page.py       the page itself

`stages.ask` puts them together. What needs torch is only there, so that a video that cannot be
read is refused before torch is imported, and is decoded while it is.
"""
