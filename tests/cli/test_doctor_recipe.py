"""`vqa doctor`: the optional packages, and a recipe's plan against this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import doctor
from stages.recipes.recipe import load_recipe


def by_name(checks: Any) -> dict[str, Any]:
    return {check.name: check for check in checks}


@pytest.fixture
def only_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tuple(check for check in doctor.CHECKS if check[0] == "recipe")
    assert kept
    monkeypatch.setattr(doctor, "CHECKS", kept)


@pytest.mark.usefixtures("only_the_plan")
def test_a_recipe_that_does_not_fit_the_disk_fails_with_what_to_do(
    tmp_path: Path, vqa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=10**9))
    outcome = vqa("doctor", "-w", tmp_path, "--recipe", "vlap-star")
    assert outcome.code == 5
    found = {check["name"]: check for check in outcome.json["checks"]}
    disk = found["recipe vlap-star, disk"]
    assert disk["state"] == "failed"
    assert "1.0 GB free" in disk["found"]
    assert "--workspace" in disk["advice"]
    inputs = found["recipe vlap-star, inputs"]
    assert inputs["state"] == "warning"
    assert "star train" in inputs["found"]
    assert inputs["advice"].startswith("vqa prepare")


@pytest.mark.usefixtures("only_the_plan")
def test_a_recipe_that_fits_is_ok(tmp_path: Path) -> None:
    checks = by_name(doctor.examine(tmp_path, "cpu", load_recipe("vlap-shapes")))
    assert {name.rpartition(", ")[2]: check.state for name, check in checks.items()} == {
        "disk": "ok", "memory": "ok", "inputs": "ok",
    }  # fmt: skip
    assert "GB free" in checks["recipe vlap-shapes, disk"].found


@pytest.mark.usefixtures("only_the_plan")
def test_without_a_recipe_there_is_no_plan_and_a_wrong_one_is_told(
    tmp_path: Path, vqa: Callable[..., Any]
) -> None:
    assert list(doctor.examine(tmp_path)) == []
    outcome = vqa("doctor", "-w", tmp_path, "--recipe", "nothing")
    assert outcome.code == outcome.json["error"]["code"] != 0
    assert "nothing" in outcome.json["error"]["message"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("step = 3", 3),
        ("[recipe]\ntitle = 'nothing to run'", 3),
        ('[[step]]\ncommand = ["eval", "--benchmark", "nonsense"]', 2),
    ],
)
def test_a_faulty_recipe_is_refused_before_anything_is_looked_at(
    text: str, code: int, tmp_path: Path, vqa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (("looked", lambda _: pytest.fail("looked"), ""),))
    (tmp_path / "bad.toml").write_text(text)
    outcome = vqa("doctor", "-w", tmp_path, "--recipe", tmp_path / "bad.toml")
    assert outcome.code == outcome.json["error"]["code"] == code


def test_extras_are_told_with_the_command_that_brings_the_absent_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tuple(check for check in doctor.CHECKS if check[0] == "packages")
    monkeypatch.setattr(doctor, "CHECKS", kept)
    monkeypatch.setattr(doctor, "EXTRAS", doctor.EXTRAS | {"none": ("no_such_package",)})
    extras = by_name(doctor.examine(tmp_path))["extras"]
    assert extras.state == "ok"
    assert "none" in extras.found.partition("not installed: ")[2].split(", ")
    assert "vqa-toolkit[" in extras.advice


def test_every_extra_that_brings_a_package_is_looked_at() -> None:
    import tomllib

    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    for builders in ("test", "docs", "dev", "all"):
        extras.pop(builders, None)
    assert set(extras) == set(doctor.EXTRAS)
    for extra, packages in doctor.EXTRAS.items():
        assert all(any(line.startswith(name) for line in extras[extra]) for name in packages)
