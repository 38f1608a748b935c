"""What each system loses without the videos.

Reads: predictions with and without them, and their questions.   Writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stages.artifacts.store import Artifact
from stages.report_page.model import Drop
from stages.systems.language_only import blind_twins, language_only

Interval = tuple[float, float]


@dataclass(frozen=True)
class BlindDrop:
    """One system with the videos and without them.

    Attributes:
        seeing: The predictions with the videos.
        blind: The predictions without.
        found: From `systems.language_only`.
    """

    seeing: Artifact
    blind: Artifact
    found: dict[str, Any]

    def as_json(self, name: str) -> dict[str, Any]:
        """For the JSON; `name` is what the page calls the system."""
        how = self.blind.config["blind"]
        return {"system": name, "how": how, "artifact": self.blind.id, **self.found}

    def on_page(self, name: str) -> Drop:
        """For the page."""
        found = self.found
        return Drop(
            system=name,
            how=str(self.blind.config["blind"]),
            seeing=found["seeing"],
            blind=found["blind"],
            drop=found["drop"],
            ci95=_interval(found["ci95"]),
            by_type={
                name: (part["drop"], _interval(part["ci95"]))
                for name, part in found["by_type"].items()
            },
        )


def find_drops(
    questions: Artifact, predictions: Sequence[Artifact], candidates: Sequence[Artifact]
) -> list[BlindDrop]:
    """The drop of each of `predictions` that has a blind twin among `candidates`."""
    pairs = [(item, blind) for item in predictions for blind in blind_twins(candidates, item)]
    measured = [
        BlindDrop(seeing, blind, language_only(questions, seeing, blind)) for seeing, blind in pairs
    ]
    return [drop for drop in measured if drop.found]


def _interval(ends: Sequence[float] | None) -> Interval | None:
    return None if ends is None else (float(ends[0]), float(ends[1]))
