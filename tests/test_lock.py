"""The lock holds what pyproject.toml asks for, exactly, and leaves torch to the Makefile."""

import re
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support import REPOSITORY

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
LINES = (REPOSITORY / "requirements.lock").read_text("utf-8").splitlines()
LOCKED = [Requirement(line) for line in LINES if line.strip() and not line.lstrip().startswith("#")]
WANTED = [
    Requirement(line)
    for line in (
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["dev"],
        *PROJECT["dependency-groups"]["build"],
        *PROJECT["build-system"]["requires"],
    )
]


def pins(name: str) -> list[Requirement]:
    """One, or several for several versions of Python."""
    return [pin for pin in LOCKED if canonicalize_name(pin.name) == canonicalize_name(name)]


@pytest.mark.parametrize("wanted", [w for w in WANTED if w.name != "torch"], ids=str)
def test_the_lock_holds_what_pyproject_asks_for(wanted: Requirement) -> None:
    found = pins(wanted.name)
    assert found, "not in requirements.lock: run `make lock UPGRADE=`"
    for pin in found:
        (version,) = pin.specifier
        assert wanted.specifier.contains(version.version), f"{pin}: run `make lock UPGRADE=`"


def test_every_version_is_exact_and_one_for_this_python() -> None:
    for pin in LOCKED:
        assert [specifier.operator for specifier in pin.specifier] == ["=="], pin
    here = [pin.name for pin in LOCKED if pin.marker is None or pin.marker.evaluate()]
    assert len(here) == len(set(here))


def test_torch_and_its_cuda_stay_out_and_the_makefile_takes_one_that_is_allowed() -> None:
    theirs = re.compile("torch|triton|nvidia|cuda")
    assert not [pin.name for pin in LOCKED if theirs.match(pin.name)]
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    (version,) = re.findall(r"^TORCH\s*\?= torch==(\S+)$", makefile, re.M)
    (wanted,) = [w for w in WANTED if w.name == "torch"]
    assert wanted.specifier.contains(version)
