"""The divergence of a model from its reference: KL on the model's own samples.

Shapes: B rows of a batch, P longest prompt in it, T longest response, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from alignment.evaluate.generation import Generated, Policy, batches_by_length


def sequence_kl(
    policy: Policy,
    reference: Policy,
    samples: Sequence[Generated],
    *,
    batch_size: int,
    advance: Callable[[int], None] = lambda rows: None,
) -> list[float]:
    """KL(policy || reference) of each sampled response, in nats.

    For a response sampled at temperature 1, this sums the exact KL of the two next-token
    distributions over all positions. This is the Rao-Blackwellised estimator (arXiv 2504.10637).
    Like the log-ratio of the samples (k1), it is unbiased for the KL of whole responses (up to
    `max_new_tokens`) and costs two forward passes; its variance is never larger, and it is never
    negative and exactly 0 for equal models.

    Args:
        policy: The model that generated `samples`.
        reference: The model to compare with; same vocabulary.
        samples: Responses, each with at least one token.
        batch_size: Rows per forward pass.
        advance: Called with the number of rows after each batch.

    Returns:
        One sum over the response tokens for each sample, in order.
    """
    sums: dict[int, float] = {}
    lengths = [len(sample.prompt_ids) + len(sample.ids) for sample in samples]
    for indices in batches_by_length(lengths, batch_size):
        batch = [samples[i] for i in indices]
        inputs = _inputs(batch, policy.tokenizer.pad_token_id, policy.device)
        with torch.inference_mode():
            ours = policy.model(**inputs).logits
            theirs = reference.model(**inputs).logits
        for row, i in enumerate(indices):
            count = len(samples[i].ids)
            sums[i] = _row_kl(ours[row, :count], theirs[row, :count])
        advance(len(indices))
    return [sums[i] for i in range(len(samples))]


def why_not_comparable(policy: Policy, reference: Policy) -> str:
    """The reason why the KL of the two models is undefined; empty if it is defined."""
    if policy.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        return "the vocabularies differ"
    ours, theirs = (model.model.get_output_embeddings() for model in (policy, reference))
    if ours.weight.shape[0] != theirs.weight.shape[0]:
        return "the widths of the output layers differ"
    return ""


def _inputs(batch: Sequence[Generated], pad: int, device: torch.device) -> dict[str, Any]:
    """Pad prompts on the left and responses on the right, as in generation.

    `logits_to_keep` keeps the last T + 1 columns; the first T of them predict the response.
    """
    prompt = max(len(sample.prompt_ids) for sample in batch)
    response = max(len(sample.ids) for sample in batch)
    ids = torch.full((len(batch), prompt + response), pad)
    mask = torch.zeros_like(ids)
    for row, sample in enumerate(batch):
        start, end = prompt - len(sample.prompt_ids), prompt + len(sample.ids)
        ids[row, start:end] = torch.tensor(sample.prompt_ids + sample.ids)
        mask[row, start:end] = 1
    return {
        "input_ids": ids.to(device),
        "attention_mask": mask.to(device),
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0).to(device),
        "logits_to_keep": response + 1,
        "use_cache": False,
    }


def _row_kl(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """KL summed over positions; working on one row limits the memory to T x V floats."""
    logps = ours.float().log_softmax(-1)
    ref_logps = theirs.float().log_softmax(-1)
    per_token = (logps.exp() * (logps - ref_logps)).sum(-1)
    return float(per_token.clamp(min=0).double().sum())  # rounding can give -1e-9
