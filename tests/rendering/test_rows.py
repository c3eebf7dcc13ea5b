"""A row's text and mask are its own: whatever rows are with it, and whatever the template does."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from chat_cases import TRL_TEMPLATES
from support import make_tokenizer, prepare_rows, write_jsonl

from alignment.data.columns import IGNORED
from alignment.data.load import load_datasets
from alignment.errors import DataError
from alignment.ppo.prompts import decode_prompts
from alignment.runs.files import CHAT_TEMPLATE
from alignment.training.run import run_stage

Row = dict[str, Any]
TOOLS_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}{% for call in message.tool_calls or [] %}"
    "{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LONG = 123456789012345678901234567890


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> Row:
    return {"role": "assistant", "content": text, **more}


def call(name: str, **arguments: Any) -> Row:
    function = {"name": name, "arguments": arguments}
    turns = [user(name), assistant("", tool_calls=[{"type": "function", "function": function}])]
    return {"messages": turns}


TOOL = {"type": "function", "function": {"name": "move", "parameters": {"x": {"type": "number"}}}}
MIXED: list[Row] = [
    {"prompt": "Say one.", "completion": "one"},
    {"messages": [user("hello"), assistant("hi")]},
    {"messages": [user("q"), assistant("a", weight=0), user("r"), assistant("b")]},
    {"prompt": [user("q")], "completion": [assistant("a")]},
    {"instruction": "Add.", "input": "1 2", "output": "3"},
    {"instruction": "And now?", "output": "4", "history": [["Add.", "3"]], "system": "Be brief."},
    {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    {"prompt": "q", "chosen": "good", "rejected": "bad"},
    call("move", x=0, y=1),
    call("say", text="hi"),
    call("move", x="far", y=[1, {"z": None}]),
    call("count", x=LONG, y=0.5),
    {**call("move", x=1.5), "tools": [TOOL]},
    {**call("say"), "tools": [{**TOOL, "strict": True}], "chat_template_kwargs": {"day": 3}},
]


@pytest.fixture
def model(tmp_path: Path, tiny_dir: Path) -> Path:
    """The tiny model with a template that shows tools and their calls."""
    return with_template(tmp_path, tiny_dir, TOOLS_TEMPLATE)


def with_template(folder: Path, model: Path, template: str) -> Path:
    shutil.copytree(model, folder / "model")
    (folder / "model" / CHAT_TEMPLATE).write_text(template, encoding="utf-8")
    return folder / "model"


def prepared(
    stage: str, folder: Path, model: Path, rows: list[Row], *flags: str
) -> list[dict[str, Any]]:
    data = write_jsonl(folder / "rows.jsonl", rows)
    return list(load_datasets(*prepare_rows(stage, model, [data], *flags))[0])


def learned(row: dict[str, Any]) -> str:
    ids = [one for one, label in zip(row["input_ids"], row["labels"], strict=True) if label >= 0]
    return str(make_tokenizer().decode(ids))


def test_rows_are_the_same_alone_and_together(tmp_path: Path, model: Path) -> None:
    together = prepared("sft", tmp_path, model, MIXED)
    alone = [row for one in MIXED for row in prepared("sft", tmp_path, model, [one])]
    assert together == alone
    assert prepared("sft", tmp_path, model, MIXED[::-1]) == together[::-1]


@pytest.mark.parametrize("stage", ["rm", "dpo", "kto"])
def test_pairs_are_the_same_alone_and_together(stage: str, tmp_path: Path, model: Path) -> None:
    rows: list[Row] = [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": [user("q")], "chosen": [assistant("good")], "rejected": [assistant("bad")]},
        {"chosen": [user("q"), assistant("good")], "rejected": [user("q"), assistant("bad")]},
        {
            "prompt": [user("m")],
            "chosen": call("a", x=1)["messages"][1:],
            "rejected": call("a", x="1")["messages"][1:],
        },
    ]
    together = prepared(stage, tmp_path, model, rows)
    assert together == [row for one in rows for row in prepared(stage, tmp_path, model, [one])]


def test_only_answers_are_learned_in_every_shape(tmp_path: Path, model: Path) -> None:
    found = [learned(row) for row in prepared("sft", tmp_path, model, MIXED)]
    end = "<|im_end|>\n"
    assert found == [
        f"one{end}",
        f"hi{end}",
        f"b{end}",
        f"a{end}",
        f"3{end}",
        f"3{end}4{end}",  # the answers of a history are answers
        f"a{end}",
        f"good{end}",
        f'move{{"x": 0, "y": 1}}{end}',
        f'say{{"text": "hi"}}{end}',
        f'move{{"x": "far", "y": [1, {{"z": null}}]}}{end}',
        f'count{{"x": {LONG}, "y": 0.5}}{end}',
        f'move{{"x": 1.5}}{end}',
        f"say{{}}{end}",
    ]


def test_tools_are_shown_in_their_row_alone(tmp_path: Path, model: Path) -> None:
    rows = prepared("sft", tmp_path, model, MIXED)
    texts = [str(make_tokenizer().decode(row["input_ids"])) for row in rows]
    assert [json.dumps(TOOL) in text for text in texts] == [False] * 12 + [True, False]
    assert json.dumps({**TOOL, "strict": True}) in texts[-1]
    assert "Be brief." in texts[5]
    assert "Add.<|im_end|>" in texts[5]


SEEN: list[dict[str, Any]] = []
ODD: list[Row] = [
    {"prompt": "q0", "answer": "0", "id": LONG},
    {"prompt": "q1", "answer": 1, "id": LONG + 1},
    {"prompt": [user("q2")], "answer": [2, {"a": None}], "id": -LONG},
    {"prompt": "q3", "answer": 3.5, "extra": {"x": {"y": [LONG, "z"]}}},
]


def remember(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    """A reward for ppo that keeps the columns it is given."""
    for i, prompt in enumerate(prompts):
        row = {name: columns[name][i] for name in ("answer", "id", "extra")}
        SEEN.append({"prompt": prompt, **row})
    return [1.0] * len(completions)


def test_columns_arrive_unchanged_at_a_reward_function(tmp_path: Path, tiny_dir: Path) -> None:
    data = write_jsonl(tmp_path / "prompts.jsonl", ODD * 2)
    SEEN.clear()
    run_stage(
        "ppo",
        [
            "--model_name_or_path", str(tiny_dir), "--train_data", str(data), "--output_dir",
            str(tmp_path / "out"), "--reward_model", f"{__name__}:remember", "--max_steps", "1",
            "--per_device_train_batch_size", "8", "--steps_per_generation", "1",
            "--max_completion_length", "4", "--report_to", "none", "--use_cpu",
            "--disable_tqdm", "true", "--activation_checkpointing", "false", "--preflight", "false",
        ],
    )  # fmt: skip
    wanted = [
        {"answer": None, "id": None, "extra": None, **row, "prompt": prompt}
        for row, prompt in zip(ODD, ([user(f"q{i}")] for i in range(4)), strict=True)
    ]
    assert sorted(map(json.dumps, SEEN)) == sorted(
        json.dumps({key: row[key] for key in ("prompt", "answer", "id", "extra")})
        for row in wanted * 2
    )


def test_rows_of_prompts_are_the_same_alone_and_together(tmp_path: Path, model: Path) -> None:
    flags = ["--reward_model", f"{__name__}:remember", "--max_completion_length", "8"]
    together = prepared("ppo", tmp_path, model, ODD, *flags)
    assert together == [
        row for one in ODD for row in prepared("ppo", tmp_path, model, [one], *flags)
    ]
    for one, row in zip(decode_prompts(together), ODD, strict=True):
        assert {key: one[key] for key in row if key != "prompt"} == {
            key: value for key, value in row.items() if key != "prompt"
        }


CHAT = [user("q"), assistant("first answer"), user("r"), assistant("second answer")]


def test_a_template_that_hides_where_a_turn_ends_is_refused(tmp_path: Path, tiny_dir: Path) -> None:
    """Its end token is at the end of the conversation alone: an earlier answer would never end."""
    model = with_template(
        tmp_path,
        tiny_dir,
        "{% for m in messages %}{{ m.role }}: {{ m.content }}"
        "{% if loop.last and not add_generation_prompt %}{{ eos_token }}{% endif %}\n\n"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
    )
    rows: list[Row] = [{"messages": CHAT[:2]}, {"messages": CHAT}]
    with pytest.raises(DataError) as refused:
        prepared("sft", tmp_path, model, rows)
    first, remedy = str(refused.value).splitlines()
    assert first.endswith(
        "rows.jsonl:2: the chat template hides where turn 2 (assistant) begins or ends, so its "
        "loss mask is unknown"
    )
    assert "--chat_template FILE" in remedy
    kept = prepared("sft", tmp_path, model, rows, "--on_bad_row", "drop")
    assert [learned(row) for row in kept] == ["first answer<|im_end|>\n"]


@pytest.mark.parametrize("name", ["smolvlm", "idefics3", "llava_next"])
def test_a_template_of_a_vision_model_that_drops_text_is_refused(
    name: str, tmp_path: Path, tiny_dir: Path
) -> None:
    template = (TRL_TEMPLATES / f"{name}.jinja").read_text("utf-8")
    model = with_template(tmp_path, tiny_dir, template)
    with pytest.raises(DataError, match=r"rows.jsonl:1: the chat template (drops|refuses)"):
        prepared("sft", tmp_path, model, [{"messages": CHAT}])


@pytest.mark.parametrize("loss_on", ["assistant", "last", "all"])
def test_loss_on_is_the_mask_that_a_trainer_gets(
    loss_on: str, tmp_path: Path, tiny_dir: Path
) -> None:
    rows = [{"messages": CHAT}, {"prompt": CHAT[:3], "completion": CHAT[3:]}]
    rows += [{"messages": [*CHAT[:1], {**CHAT[1], "weight": 0}, *CHAT[2:]]}]
    found = prepared("sft", tmp_path, tiny_dir, rows, "--loss_on", loss_on)
    last = "second answer<|im_end|>"
    wanted = [f"first answer<|im_end|>{last}" if loss_on == "assistant" else last, last, last]
    if loss_on == "all":
        wanted = [str(make_tokenizer().decode(row["input_ids"])) for row in found]
        wanted[2] = wanted[2].replace("first answer<|im_end|>", "")  # its weight is 0
    assert [learned(row) for row in found] == wanted
    assert {IGNORED} >= {
        label for row in found for label, one in zip(row["labels"], row["input_ids"], strict=True)
        if label != one
    }  # fmt: skip


def test_a_row_without_loss_is_left_out(tmp_path: Path, tiny_dir: Path) -> None:
    rows = [{"messages": [CHAT[0], assistant("a", loss=False)]}, {"messages": CHAT}]
    assert len(prepared("sft", tmp_path, tiny_dir, rows)) == 1
