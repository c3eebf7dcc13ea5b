"""Scores of answers by a reward model, read the way `align ppo` reads them."""

from collections.abc import Callable, Sequence

import torch

from alignment.evaluate.generation import batches_by_length
from alignment.evaluate.loading import Scorer
from alignment.evaluate.records import Prompt


def score_answers(
    scorer: Scorer,
    pairs: Sequence[tuple[Prompt, str]],
    *,
    batch_size: int,
    advance: Callable[[int], None] = lambda rows: None,
) -> list[float]:
    """The reward of each prompt with its answer, in the order of `pairs`.

    Messages go through the reward model's own chat template, strings are joined as they are; the
    text is read by its own tokenizer, and the logit at the last token is the score.
    """
    texts = [_text(scorer, prompt, answer) for prompt, answer in pairs]
    encoded = [scorer.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    scores: dict[int, float] = {}
    for indices in batches_by_length([len(ids) for ids in encoded], batch_size):
        inputs = scorer.tokenizer.pad(
            {"input_ids": [encoded[i] for i in indices]}, padding_side="right", return_tensors="pt"
        ).to(scorer.model.device)
        with torch.inference_mode():
            logits = scorer.model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).logits
        scores.update(zip(indices, logits[:, 0].float().tolist(), strict=True))
        advance(len(indices))
    return [scores[i] for i in range(len(pairs))]


def _text(scorer: Scorer, prompt: Prompt, answer: str) -> str:
    if isinstance(prompt, str):
        return prompt + answer
    messages = [*prompt, {"role": "assistant", "content": answer}]
    return str(scorer.tokenizer.apply_chat_template(messages, tokenize=False))
