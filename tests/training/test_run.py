"""What the end of a run leaves behind in its process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from alignment.errors import Interrupted
from alignment.training.run import leaving_group


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_run_that_ends_leaves_its_group(group: None) -> None:
    with leaving_group():
        assert dist.is_initialized()
    assert not dist.is_initialized()
    with leaving_group():  # a run of one process has none
        pass


def test_a_run_that_is_interrupted_leaves_its_group(group: None) -> None:
    with pytest.raises(Interrupted), leaving_group():
        raise Interrupted(15, "after its checkpoint was written")
    assert not dist.is_initialized()


def test_after_an_error_the_group_stays_for_those_that_wait_in_it(group: None) -> None:
    with pytest.raises(RuntimeError), leaving_group():
        raise RuntimeError
    assert dist.is_initialized()
