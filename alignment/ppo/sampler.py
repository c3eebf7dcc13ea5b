"""The order of prompts, the same in a resumed run as in one without interruption."""

from collections.abc import Callable, Iterator

from torch.utils.data import Sampler
from trl.trainer.utils import RepeatSampler


class EpochSampler(Sampler[int]):
    """TRL's sampler, shuffled by seed and epoch.

    TRL's sampler draws the order of each epoch from the state that its generator is in after the
    epoch before. A resumed run does not have that state, and would see another order.
    """

    def __init__(self, sampler: RepeatSampler, *, epoch: Callable[[], int]) -> None:
        self.sampler = sampler
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.sampler.shuffle:
            self.sampler.generator.manual_seed((self.sampler.seed or 0) + self.epoch())
        yield from self.sampler

    def __len__(self) -> int:
        return len(self.sampler)
