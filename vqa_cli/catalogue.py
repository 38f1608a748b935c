"""The commands of `vqa` in pipeline order: where each lives, its panel, and one worked example.

Data only, so that `vqa --help` can be drawn without reading any command's module, and so that a
test can give every example to the real parser.
"""

from __future__ import annotations

from dataclasses import dataclass

START = "Start here"
PREPARE = "Prepare videos and questions"
VLAP = "Train VLAP"
SEVILA = "Train SeViLA"
VIDEODISTILL = "Train VideoDistill"
EVALUATE = "Evaluate"
LOOK = "Look at results"
KEEP = "Automate and keep"


@dataclass(frozen=True)
class Entry:
    """One command, or group of commands, of the first level.

    Attributes:
        name: As it is typed.
        module: Below `vqa_cli`.
        panel: Heading of `vqa --help` that it stands under.
        summary: What it does, in the few words that fit one line of a narrow terminal.
        function: In the module; `app` is a group of commands.
    """

    name: str
    module: str
    panel: str
    summary: str
    function: str

    @property
    def is_group(self) -> bool:
        """Whether it has commands of its own."""
        return self.function == "app"


def _command(name: str, panel: str, summary: str, module: str = "") -> Entry:
    function = name.replace("-", "_")
    return Entry(name, module or function, panel, summary, function)


def _group(name: str, summary: str) -> Entry:
    return Entry(name, name, KEEP, summary, "app")


ENTRIES = (
    _command("demo", START, "The whole tool on generated videos, in minutes."),
    _command("doctor", START, "What works on this machine, and what to mend."),
    _command("benchmarks", START, "What is known of each benchmark, and where to get it."),
    _command("prepare", PREPARE, "Annotation file and videos to checked questions."),
    _command("extract-frames", PREPARE, "Decode the frames that a backbone will look at."),
    _command("extract-features", PREPARE, "Encode frames once, for all questions and epochs."),
    _command("train-teacher", VLAP, "The Q-Former on all frames, or with --keep a start."),
    _command("distill", VLAP, "The student and its frame prompter."),
    _command("train-localizer", SEVILA, "Which frames matter, learnt from moment spans."),
    _command("pseudo-label", SEVILA, "Which frames the frozen answerer can answer from."),
    _command("refine-localizer", SEVILA, "The localizer on those pseudo-labels."),
    _command("train-answerer", SEVILA, "The answerer on the localizer's keyframes."),
    _command("pretrain-videodistill", VIDEODISTILL, "On videos and their captions."),
    _command("train-videodistill", VIDEODISTILL, "On questions, candidates or retrieval."),
    Entry("eval", "evaluate", EVALUATE, "Answer a split's questions and score them.", "evaluate"),
    _command("score", EVALUATE, "Official figures of a prediction file made by anyone."),
    _command("compare", EVALUATE, "Is the difference between two systems real?"),
    _command("report", LOOK, "One HTML page: tables, frames, right and wrong."),
    _command("ask", LOOK, "One video, one question: answer and keyframes."),
    _command("serve", LOOK, "The same in the browser, on this machine only."),
    _command("status", LOOK, "What is done, running, half done or stale."),
    _command("run", KEEP, "The steps of a recipe; finished ones are reused."),
    _group("artifacts", "List, show, verify and prune what a workspace holds."),
    _group("checkpoint", "Weights of SeViLA, ViLA, LAVIS in and out."),
    _group("bench", "How fast each part is on this machine."),
)

EXAMPLES = {
    "demo": "vqa demo --workspace demo-workspace",
    "doctor": "vqa doctor --workspace /data/vqa",
    "benchmarks": "vqa benchmarks star",
    "prepare": "vqa prepare -b star --split val --annotations STAR_val.json --videos Charades",
    "extract-frames": "vqa extract-frames -b star --for instructblip-flan-t5-xl --frames 32,4",
    "extract-features": "vqa extract-features -b star --backbone instructblip-flan-t5-xl",
    "train-teacher": "vqa train-teacher -b star --recipe vlap-star",
    "distill": "vqa distill -b star --recipe vlap-star --keep 4",
    "train-localizer": "vqa train-localizer -b qvhighlights --recipe sevila-qvhighlights",
    "pseudo-label": "vqa pseudo-label -b star --split train",
    "refine-localizer": "vqa refine-localizer -b star --recipe sevila-star",
    "train-answerer": "vqa train-answerer -b star --select localizer --keep 4",
    "pretrain-videodistill": "vqa pretrain-videodistill -b custom --recipe videodistill-pretrain",
    "train-videodistill": "vqa train-videodistill -b msvd-qa --keep 16",
    "eval": "vqa eval -b star --system sevila --select localizer --keep 4",
    "score": "vqa score -b star --split val -a STAR_val.json -p predictions.json",
    "compare": "vqa compare star-val-vlap star-val-sevila --flips flips.csv",
    "report": "vqa report --workspace demo-workspace",
    "ask": 'vqa ask party.mp4 "What does she pick up?" -o "a cup" -o "a hat" -o "a phone"',
    "serve": "vqa serve --port 0",
    "status": "vqa status --watch",
    "run": "vqa run vlap-star --dry-run",
    "artifacts ls": "vqa artifacts ls features",
    "artifacts show": "vqa artifacts show star-val-vlap",
    "artifacts verify": "vqa artifacts verify --repair",
    "artifacts prune": "vqa artifacts prune features --yes",
    "checkpoint inspect": "vqa checkpoint inspect sevila_pretrained.pth",
    "checkpoint import": "vqa checkpoint import sevila_pretrained.pth --as sevila "
    "--base blip2-flan-t5-xl -b star --dry-run",
    "checkpoint export": "vqa checkpoint export star-student --to vila --out vila.pth",
    "bench decode": "vqa bench decode --workers 2",
    "bench cache": "vqa bench cache --videos 24",
    "bench features": "vqa bench features --backbone full",
    "bench latency": "vqa bench latency --backbone full",
    "bench train": "vqa bench train --backbone full",
}
"""Command -> one line that can be typed."""

GUIDE = (
    "A first look: `vqa demo`, then `vqa report`. Your own video: `vqa ask VIDEO QUESTION`. "
    "A benchmark: `vqa benchmarks NAME`, then the panels from top to bottom; every command says "
    "what comes next. `vqa COMMAND --help` has an example; `vqa --install-completion` lets Tab "
    "finish commands, options and the names in your workspace (bash, zsh, fish)."
)
"""Below `vqa --help`."""


def epilog(command: str) -> str:
    """What stands below the help of `command`, such as `bench decode`."""
    return f"Example: `{EXAMPLES[command]}`"
