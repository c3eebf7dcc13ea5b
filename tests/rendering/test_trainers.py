"""What `align data show` shows of a row is what the trainers of every stage get of it."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from chat_cases import CASES, Turn, conversations, make_case_tokenizer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support import prepare_rows, write_jsonl
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from alignment.data.columns import IGNORED
from alignment.data.load import load_datasets
from alignment.ppo.prompts import Prompts, decode_prompts
from alignment.settings.resolve import build, resolve
from alignment.training.trainers import (
    PreparedDPOTrainer,
    PreparedKTOTrainer,
    PreparedRewardTrainer,
    PreparedSFTTrainer,
)
from data_tools.formats import Record, examples
from data_tools.rendering import Renderer, read_tokenizer
from data_tools.stats.show import Side, sides

Row = dict[str, Any]
LIMIT = 96
TRAINERS: dict[str, Any] = {
    "sft": PreparedSFTTrainer,
    "rm": PreparedRewardTrainer,
    "dpo": PreparedDPOTrainer,
    "kto": PreparedKTOTrainer,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cases")


@pytest.fixture(scope="module")
def model(folder: Path) -> Callable[[str], Path]:
    """The folder of a model without weights, with the tokenizer of a case."""

    @cache
    def make(name: str) -> Path:
        tokenizer = make_case_tokenizer(CASES[name])
        tokenizer.save_pretrained(folder / name)
        config(len(tokenizer)).save_pretrained(folder / name)
        return folder / name

    return make


def config(size: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=size, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, max_position_embeddings=4096, pad_token_id=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def collators(folder: Path, model: Callable[[str], Path]) -> dict[str, Callable[[list[Row]], Any]]:
    """The collator of each stage's trainer; only the padding token, one for all, is in it."""
    found = {}
    start = model("chatml")
    tokenizer: Any = AutoTokenizer.from_pretrained(start)
    LlamaForCausalLM(config(len(tokenizer))).save_pretrained(start)
    for stage, trainer in TRAINERS.items():
        data = write_jsonl(folder / "one.jsonl", rows_of(stage, [[*TURNS]] * 2))
        rows, values = prepare_rows(stage, start, [data], *flags(stage))
        argv = ["--model_name_or_path", str(start), "--train_data", str(data), "--use_cpu"]
        argv += ["--output_dir", str(folder / stage)]
        args = build(resolve(stage, [*argv, "--report_to", "none", *flags(stage)]))[-1]
        args.remove_unused_columns = False
        found[stage] = trainer(
            model=str(start),
            args=args,
            train_dataset=load_datasets(rows, values)[0],
            processing_class=tokenizer,
        ).data_collator
    return found


TURNS: list[Turn] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def flags(stage: str) -> list[str]:
    if stage == "ppo":
        return ["--reward_model", f"{__name__}:constant", "--max_completion_length", "8"]
    return ["--max_length", str(LIMIT)]


def constant(completions: list[Any], **_: Any) -> list[float]:
    """A reward for ppo."""
    return [1.0] * len(completions)


def rows_of(stage: str, chats: list[list[Turn]]) -> list[Row]:
    """Conversations as rows of a stage, in several shapes."""
    rows: list[Row] = []
    for i, turns in enumerate(chats):
        prompt = turns[:-1]
        answer = [{**turns[-1], "content": f"{turns[-1]['content']}."}]  # an empty one is refused
        other = [{"role": "assistant", "content": f"{answer[0]['content']} no"}]
        if stage == "sft":
            whole = {"messages": [*prompt, *answer]}
            rows.append(whole if i % 2 else {"prompt": prompt, "completion": answer})
        elif stage == "kto":
            rows.append({"prompt": prompt, "completion": answer, "label": i % 2 == 0})
        elif stage == "ppo":
            rows.append({"prompt": prompt})
        else:
            rows.append({"prompt": prompt, "chosen": answer, "rejected": other})
    return rows


def shown(data: Path, model: Path) -> Iterator[list[Side]]:
    """The sequences of each row as `align data show` has them."""
    renderer = Renderer(read_tokenizer(model))
    for example in examples(data):
        assert isinstance(example.record, Record)
        yield sides(example.record, renderer, LIMIT)


def learns(side: Side) -> bool:
    """Whether a token carries loss and is kept; the first one is predicted from nothing."""
    return any(token.loss and token.kept for token in side.tokens[1:])


def collated(stage: str, batch: Any) -> list[tuple[list[int], list[bool] | None]]:
    """The ids and masks of a batch without padding; a pair is two sequences, chosen ones first."""
    found: list[tuple[list[int], list[bool] | None]] = []
    for i, attention in enumerate(batch["attention_mask"].tolist()):
        length = sum(attention)
        mask = None
        if stage == "sft":
            mask = [label != IGNORED for label in batch["labels"][i].tolist()[:length]]
        elif stage != "rm":
            mask = [bool(carries) for carries in batch["completion_mask"][i].tolist()[:length]]
        found.append((batch["input_ids"][i].tolist()[:length], mask))
    return found


@pytest.mark.parametrize("name", CASES)
@settings(
    max_examples=2,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.reuse, Phase.generate],  # to shrink a list of conversations takes minutes
)
@given(draw=st.data())
def test_a_trainer_gets_what_is_shown(
    name: str, draw: st.DataObject, folder: Path, model: Callable[[str], Path], collators: Any
) -> None:
    case, start = CASES[name], model(name)
    tokenizer: Any = AutoTokenizer.from_pretrained(start)
    one = conversations(case)
    chats = draw.draw(st.lists(one, min_size=8, max_size=12))
    for stage in (*TRAINERS, "ppo"):
        data = write_jsonl(folder / f"{name}-{stage}.jsonl", rows_of(stage, [[*TURNS], *chats]))
        train, _ = load_datasets(*prepare_rows(stage, start, [data], *flags(stage)))
        rows = list(shown(data, start))
        if stage == "rm":
            rows = [row for row in rows if max(len(side.tokens) for side in row) <= LIMIT]
        elif stage != "ppo":
            rows = [row for row in rows if all(map(learns, row))]
        got = (
            [(ids, None) for ids in Prompts(tokenizer, {}).ids(decode_prompts(list(train)))]
            if stage == "ppo"
            else collated(stage, collators[stage](list(train)))
        )
        in_order = [row[number] for number in range(len(rows[0])) for row in rows]
        assert len(got) == len(in_order) > 0
        for (ids, mask), side in zip(got, in_order, strict=True):
            text = "".join(token.text for token in side.tokens)
            length = LIMIT if mask else len(side.tokens)
            all_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert len(all_ids) == len(side.tokens)
            assert ids == all_ids[:length]
            if mask is not None:
                assert len(ids) == sum(token.kept for token in side.tokens)
                assert mask == [token.loss for token in side.tokens[:length]]
