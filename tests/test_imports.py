"""Imports that need torch: no collections in between, and what they load is out of later ones."""

import gc
import sys
from pathlib import Path

import pytest

from alignment.models.imports import import_heavy

MODULE = """\
import gc
WAS_ENABLED = gc.isenabled()
LOOP = []
LOOP.append(LOOP)
"""


def test_an_import_waits_for_no_collection_and_is_out_of_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heavy_one.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    before = gc.get_freeze_count()
    import_heavy("heavy_one")
    assert sys.modules["heavy_one"].WAS_ENABLED is False
    assert gc.isenabled()
    assert not any(x is sys.modules["heavy_one"].LOOP for x in gc.get_objects())
    frozen = gc.get_freeze_count()
    assert frozen > before
    import_heavy("heavy_one")  # a second time, garbage of a first run may be about
    assert gc.get_freeze_count() <= frozen


def test_an_import_that_fails_leaves_collections_on() -> None:
    with pytest.raises(ModuleNotFoundError):
        import_heavy("no_such_module")
    assert gc.isenabled()
