"""The local page of `vqa serve`: what stands between a browser and an `Asker`.

    limits.py   how large, how long, how many
    guard.py    who may ask: this machine's own page, no other site; headers of every answer
    uploads.py  a request's body on disk under a random name, no longer than allowed
    videos.py   videos that were looked at, the least recently used ones forgotten
    turns.py    one computation at a time, in a thread of its own
    routes.py   the JSON of docs/serve.md
    page.*      the page: HTML, style, script

`stages.serve` puts them together. Needs the extra `serve`.
"""
