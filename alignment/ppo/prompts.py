"""The prompts of PPO as token ids, asked of the renderer that every stage asks."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignment.errors import DataError
from alignment.models.limits import max_positions
from data_tools.rendering import Renderer, from_transformers

#: More bytes than what a chat template adds around a message or two.
_TEMPLATE_BYTES = 256


class Prompts:
    """Token ids of prompts.

    Rows that `alignment.data` prepared have their ids. Rows of a trainer that is used from Python
    have only prompts, text or messages; text is taken as it is.

    Args:
        tokenizer: The policy's.
        variables: Variables for its chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any]) -> None:
        self.renderer = Renderer(from_transformers(tokenizer), as_chat=False, variables=variables)

    def ids(self, rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """The ids of each prompt, `(N,)` lists of P tokens."""
        if all("prompt_ids" in row for row in rows):
            return [list(row["prompt_ids"]) for row in rows]
        spoken = [self.renderer.prompt(row["prompt"]) for row in rows]
        return [tokens.ids for tokens in self.renderer.encode(spoken)]

    def check(
        self, dataset: Any, *, name: str, model: PreTrainedModel, max_completion_length: int
    ) -> None:
        """Refuse prompts that leave no room for the response in the model's positions.

        Prepared rows are checked already; a stream is not read ahead.

        Raises:
            DataError: a prompt is too long, naming its row, or there is no column of prompts.
        """
        if not isinstance(dataset, Dataset) or "prompt_ids" in dataset.column_names:
            return
        if "prompt" not in dataset.column_names:
            raise DataError(
                f"the rows have no column `prompt` (they have {', '.join(dataset.column_names)})"
            )
        limit = max_positions(model.config)
        if limit is None:
            return
        budget = limit - max_completion_length
        for row, prompt in enumerate(dataset["prompt"], start=1):
            # tokenising every prompt of a large set would delay the start by minutes
            if len(str(prompt).encode()) + _TEMPLATE_BYTES <= budget:
                continue  # a token has at least a byte
            (ids,) = self.ids([{"prompt": prompt}])
            if len(ids) > budget:
                raise DataError(
                    f"{name}row {row}: the prompt has {len(ids)} tokens, and with "
                    f"max_completion_length {max_completion_length} the model's {limit} positions "
                    f"leave room for {budget}",
                    "shorten or filter the prompt, or lower max_completion_length",
                )


def decode_prompts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of prompts as their sources have them, with the ids of the prompt as `prompt_ids`.

    All rows of a batch have the same columns; one that a row lacks is None, as in TRL.
    """
    found = [
        {**json.loads(row["row"]), "prompt_ids": row["prompt_ids"]} if "row" in row else row
        for row in rows
    ]
    names = dict.fromkeys(name for row in found for name in row)
    return [{name: row.get(name) for name in names} for row in found]
