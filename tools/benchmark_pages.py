"""Write the pages of docs/benchmarks from the manifests, or check that they are in sync.

    python tools/benchmark_pages.py [--check]

Reads `data_manifests`, the scorers' rules, the published figures, and `tools/benchmark_pages.toml`
for what no manifest says (what a benchmark asks, one made-up record of each layout). `--check`
writes nothing, names the pages that differ, and ends with 1 if there are any.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stages.benchmarks.manifest import (
    BenchmarkManifest,
    VideoRule,
    benchmark_names,
    load_manifest,
)
from stages.benchmarks.published import doubts_about, figures_of, load_sources, where_printed
from stages.benchmarks.scorers.rules import DIFFERENCES

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "docs/benchmarks"
TEXTS = Path(__file__).with_suffix(".toml")
MADE = "<!-- made by tools/benchmark_pages.py; edit data_manifests and run it again -->"
CLIPS = {
    "whole": "the whole video",
    "start-end": "from `start` to `end` of each row, in seconds",
    "optional": "from `start` to `end` where a row has them, else the whole video",
}
TYPE_SOURCES = {
    "field": "what the file says",
    "id-prefix": "the question id up to its first `_`",
    "first-word": "the question's first word",
    "none": "",
}


def pages() -> dict[str, str]:
    """File name -> text of every page."""
    texts = tomllib.loads(TEXTS.read_text(encoding="utf-8"))
    manifests = [load_manifest(name) for name in benchmark_names()]
    found = {f"{manifest.name}.md": page(manifest, texts) for manifest in manifests}
    return found | {"README.md": index(manifests, texts)}


def index(manifests: Sequence[BenchmarkManifest], texts: dict[str, Any]) -> str:
    """The table of contents."""
    rows = [
        [
            f"[`{manifest.name}`]({manifest.name}.md)",
            manifest.task,
            _sum_up(manifest),
            ", ".join(f"`{name}`" for name in manifest.metrics),
            texts["asks"][manifest.name],
        ]
        for manifest in manifests
    ]
    return _joined(
        MADE,
        "# Benchmarks",
        "What `vqa prepare` reads and `vqa score` judges. One page each, made from the manifests in"
        " `data_manifests`; `vqa benchmarks` shows the same on the command line.",
        _table(["benchmark", "task", "questions", "reported", "asks"], rows),
        "A new set whose annotation file has one of these layouts needs a manifest and no code:"
        " `data_manifests/README.md`. Files of any other shape can be read as"
        " [`custom`](custom.md) with `--column`.",
    )


def _sum_up(manifest: BenchmarkManifest) -> str:
    parts = [
        f"{name} {split.questions:,}" for name, split in manifest.splits.items() if split.questions
    ]
    return ", ".join(parts) or "-"


def page(manifest: BenchmarkManifest, texts: dict[str, Any]) -> str:
    """One benchmark."""
    return _joined(
        MADE,
        f"# {manifest.name}: {manifest.title}",
        texts["asks"][manifest.name],
        _facts(manifest),
        "## Files",
        "\n".join(f"- {text}" for text in manifest.get),
        "## Splits",
        *_splits(manifest),
        "## Annotation layouts",
        *_layouts(manifest, texts["examples"].get(manifest.name, {})),
        *_types(manifest),
        "## Videos",
        *_videos(manifest),
        "## Metrics",
        *_metrics(manifest, texts["scorers"]),
        "## Commands",
        _commands(manifest),
        *_published(manifest),
    )


def _facts(manifest: BenchmarkManifest) -> str:
    options = "free" if manifest.task == "either" else "none"
    rows = [
        ["task", manifest.task],
        ["options", str(manifest.num_options or options)],
        ["a question is about", CLIPS[manifest.clip]],
        ["question where the file has none", manifest.default_question],
        [
            "answer mode of training",
            f"`{manifest.answer_default}` unless `--answer` says otherwise",
        ],
        ["licence", manifest.licence],
        ["cite", manifest.citation],
    ]
    return _table(["", ""], [row for row in rows if row[1]])


def _splits(manifest: BenchmarkManifest) -> list[str]:
    rows = [
        [
            f"`{name}`",
            ", ".join(split.roles),
            _count(split.questions),
            _count(split.videos),
            "yes" if split.labelled else "no",
            _note(
                split.note,
                [f"{_count(c.questions)} as `{at}`" for at, c in split.by_layout.items()],
            ),
        ]
        for name, split in manifest.splits.items()
    ]
    columns = ["split", "used to", "questions", "videos", "answers public", ""]
    aliases = ", ".join(f"`{alias}` = `{name}`" for alias, name in manifest.aliases.items())
    return [_table(columns, rows), f"Also called: {aliases}." if aliases else ""]


def _note(note: str, counts: list[str]) -> str:
    return "; ".join([*([note] if note else []), *counts])


def _layouts(manifest: BenchmarkManifest, examples: dict[str, str]) -> list[str]:
    found = ["Which layout a file has is seen from its content; `.gz` is read as it is."]
    for name in manifest.layouts:
        release = manifest.releases.get(name)
        found.append(f"`{name}`" + (f" (release {release})" if release else "") + ", for example:")
        found.append(f"```text\n{examples[name].strip(chr(10))}\n```")
    if len(set(manifest.releases.values())) > 1:
        found.append(
            "The releases hold different questions; artifacts of one are never mixed with those of"
            " another."
        )
    if manifest.keys:
        keys = ", ".join(f"`{name}`" for name in manifest.keys)
        found.append(f"Answer keys without questions, for `vqa score` only: {keys}.")
    return found


def _types(manifest: BenchmarkManifest) -> list[str]:
    found = []
    if manifest.types.source != "none":
        names = ", ".join(f"`{name}`" for name in manifest.types.names)
        known = f"; known: {names}" if names else ""
        found.append(f"A question's type is {TYPE_SOURCES[manifest.types.source]}{known}.")
    if manifest.macro_types:
        found.append("`accuracy_macro` is the unweighted mean over the types.")
    if manifest.groups:
        rows = [[f"`{name}`", ", ".join(members)] for name, members in manifest.groups.items()]
        found.append(_table(["group, reported pooled", "types"], rows))
    if manifest.categories:
        rows = [
            [family, ", ".join(dict.fromkeys(names.values()))]
            for family, names in manifest.categories.items()
        ]
        found.append(_table(["categories", "names"], rows))
    return ["## Types", *found] if found else []


def _videos(manifest: BenchmarkManifest) -> list[str]:
    found = [_video_rule(manifest.videos)]
    if manifest.videos.also:
        rows = [[f"`{other.pattern}`", f"`{other.to}`"] for other in manifest.videos.also]
        found.append(_table(["a name like (regular expression)", "is also looked for as"], rows))
    for name, rule in manifest.video_rules.items():
        found.append(f"With `--video-rule {name}`: {_video_rule(rule)}")
    return found


def _video_rule(rule: VideoRule) -> str:
    parts = [f"`{rule.template}` below a `--videos` folder"]
    parts += [rule.where] if rule.where else []
    parts += [f"names are looked up in `{rule.mapping_file}`"] if rule.mapping_file else []
    return "; ".join(parts).rstrip(".") + "."


def _metrics(manifest: BenchmarkManifest, scorers: dict[str, str]) -> list[str]:
    headline = ", ".join(f"`{name}`" for name in manifest.metrics)
    found = [f"Reported: {headline}. {scorers[manifest.scorer]}"]
    differences = DIFFERENCES.get(manifest.name, ())
    if differences:
        rows = [[item.ours, item.published] for item in differences]
        found.append(_table(["here", "with `--as-published`, as the public scorer"], rows))
    else:
        found.append("`--as-published` changes nothing here.")
    return found


def _commands(manifest: BenchmarkManifest) -> str:
    name, split = manifest.name, manifest.report_split
    files = "" if manifest.generated else " --annotations FILE --videos DIR"
    lines = [f"vqa prepare --benchmark {name} --split {split}{files}"]
    if name == "custom":
        lines.append(
            f"vqa prepare --benchmark custom --split {split} --annotations my.csv --videos DIR \\\n"
            "    --column question=Q --column options=a,b,c,d --column answer=gold"
        )
    lines.append(
        f"vqa score --benchmark {name} --split {split} --annotations FILE --predictions FILE"
    )
    if manifest.published_as:
        lines.append(f"vqa benchmarks {name} --published")
    return "```sh\n" + "\n".join(lines) + "\n```"


def _published(manifest: BenchmarkManifest) -> list[str]:
    figures = figures_of(manifest.published_as)
    if not figures:
        return []
    counted = Counter(figure.paper for figure in figures)
    rows = [
        [paper.name, f"{counted[paper.name]}", f"{paper.title}. {paper.published}."]
        for paper in load_sources().papers
        if counted[paper.name]
    ]
    notes = [
        f"- {where}: {doubt.text}" if (where := where_printed(doubt)) else f"- {doubt.text}"
        for doubt in doubts_about(figures)
    ]
    return [
        "## Published figures",
        "Kept in `data_manifests/published`.",
        _table(["paper", "figures", "title"], rows),
        "\n".join(notes),
    ]


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def stale(wanted: dict[str, str]) -> list[str]:
    """Names of pages that are missing, differ, or belong to no benchmark."""
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    return sorted(
        name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name)
    )


def main() -> None:
    """Write the pages or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, end with 1 if stale")
    options = parser.parse_args()
    wanted = pages()
    changed = stale(wanted)
    if options.check:
        print("in sync" if not changed else f"stale: {', '.join(changed)}", file=sys.stderr)
        sys.exit(1 if changed else 0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in changed:
        if name in wanted:
            (FOLDER / name).write_text(wanted[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()
    print(f"{len(wanted)} pages, {len(changed)} of them changed", file=sys.stderr)


if __name__ == "__main__":
    main()
