"""Held-out prompts of PPO: one rollout of all of them, in batches of any size and on any processes.

Shapes: N responses of this process, T tokens of the longest one, V tokens of the vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Sampler
from transformers import LogitsProcessor

from alignment.ppo.experience import TokenScores
from alignment.ppo.responses import Responses
from alignment.ppo.rollout import seed_of


class HeldOutBatches(Sampler[list[int]]):
    """The batches of one process; each prompt comes ``repeats`` times over all processes.

    TRL gathers rewards and lengths of all processes, so their batches must be of one size. Numbers
    of a response at or over ``count`` fill the last ones and do not count.
    """

    def __init__(self, prompts: int, *, repeats: int, size: int, rank: int, processes: int) -> None:
        self.count, self.repeats = prompts * repeats, repeats
        self.numbers: list[list[int]] = []
        for start in range(0, self.count, size * processes):
            each = -(-min(size * processes, self.count - start) // processes)
            while each * processes % repeats:  # vLLM samples all responses to a prompt together
                each += 1
            first = start + rank * each
            self.numbers.append(list(range(first, first + each)))

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the prompts of each batch."""
        for numbers in self.numbers:
            yield [number // self.repeats if number < self.count else 0 for number in numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def real(self, batch: int) -> list[bool]:
        """Which responses of a batch count."""
        return [number < self.count for number in self.numbers[batch]]


@dataclass(frozen=True)
class Scored:
    """Held-out responses with their scores.

    Shape:
        rewards: `(N, F)`; scores: `(N,)`; real: N, whether a response counts.
    """

    responses: Responses
    rewards: Tensor
    scores: Tensor
    tokens: TokenScores
    real: list[bool]


def join(batches: Sequence[Scored]) -> Scored:
    """Join the batches of an evaluation into one."""
    responses = [batch.responses for batch in batches]
    tokens = [batch.tokens for batch in batches]
    references = [x.ref_logps for x in tokens if x.ref_logps is not None]
    return Scored(
        Responses(
            rows=list(chain(*(x.rows for x in responses))),
            prompts=list(chain(*(x.prompts for x in responses))),
            completions=list(chain(*(x.completions for x in responses))),
            prompt_ids=list(chain(*(x.prompt_ids for x in responses))),
            ids=list(chain(*(x.ids for x in responses))),
            ended=torch.cat([x.ended for x in responses]),
        ),
        torch.cat([batch.rewards for batch in batches]),
        torch.cat([batch.scores for batch in batches]),
        TokenScores(
            logps=_join([x.logps for x in tokens]),
            values=_join([x.values for x in tokens]),
            ref_logps=_join(references) if references else None,
            entropy=_join([x.entropy for x in tokens]),
        ),
        list(chain(*(batch.real for batch in batches))),
    )


def _join(column: Sequence[Tensor]) -> Tensor:
    """Join tensors `(N, T)` of several T."""
    longest = max(x.size(1) for x in column)
    return torch.cat([pad(x, (0, longest - x.size(1))) for x in column])


class OwnNoise(LogitsProcessor):
    """Samples the next token of each row by random numbers of that row alone.

    The token with the highest sum of logit and Gumbel noise is a sample of the softmax (Maddison et
    al., arXiv 1411.0030). Only that one stays possible, so the batch and the other processes
    change nothing.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Leave one token of each row.

        Shape:
            scores, the result: `(N, V)`.
        """
        noise = torch.empty_like(scores, dtype=torch.float32)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        chosen = (scores.float() - noise.log()).argmax(dim=1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


@contextmanager
def own_noise(policy: Any, numbers: Sequence[int], *, seed: int) -> Iterator[None]:
    """Let `policy.generate` sample each response by random numbers of its own.

    Evaluations of one run sample by the same numbers, so that they differ by the policy alone.
    vLLM and continuous batching do not ask the policy.

    Args:
        policy: The causal language model itself, not its PEFT wrapper.
        numbers: The number of each response in the evaluation.
        seed: Of the run.
    """
    processors = policy._get_logits_processor
    seeds = [seed_of(seed, number) for number in numbers]

    def with_noise(generation_config: Any, *args: Any, **kwargs: Any) -> Any:
        found = processors(generation_config, *args, **kwargs)
        if generation_config.do_sample and generation_config.num_beams == 1:
            # after temperature, top_k and the like, which a processor of `generate` comes before
            found.append(OwnNoise(seeds, policy.device))
        return found

    policy._get_logits_processor = with_noise
    try:
        yield
    finally:
        del policy._get_logits_processor
