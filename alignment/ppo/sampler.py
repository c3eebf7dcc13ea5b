"""The order of prompts, so that a resumed run sees what an uninterrupted one would have."""

from collections.abc import Callable, Iterator

from torch.utils.data import Sampler
from trl.trainer.utils import RepeatSampler


class EpochSampler(Sampler[int]):
    """TRL's sampler, shuffled by seed and epoch.

    TRL's own draws each epoch's order from where its generator stands, which a resumed run cannot
    know: from the second epoch on it would see another order.
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
