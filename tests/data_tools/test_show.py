"""Tokens and templates against transformers, what is cut, what is shown, the page of statistics."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from data_tools.rendering.model_text import ModelText
from support import make_tokenizer, write_jsonl

from alignment.errors import ConfigError
from data_tools.checks import Where
from data_tools.checks.lengths import Truncation
from data_tools.checks.validate import validate
from data_tools.cli import data
from data_tools.formats import Record
from data_tools.stats.measure import quantiles, stats
from data_tools.stats.show import tokens

TURNS = [
    {"role": "system", "content": "你是助手。"},
    {"role": "user", "content": "二加二等于几？"},
    {"role": "assistant", "content": "四。"},
    {"role": "user", "content": "Say hello."},
    {"role": "assistant", "content": "Hello!"},
]
PLAIN_TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(path)
    return path


def with_template(folder: Path, to: Path, template: str | None) -> ModelText:
    (to / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    config: dict[str, Any] = {"eos_token": {"content": "<|im_end|>"}}
    if template:
        config["chat_template"] = [{"name": "default", "template": template}]
    (to / "tokenizer_config.json").write_text(json.dumps(config))
    return ModelText(to)


def test_conversations_are_what_transformers_makes_of_them(folder: Path) -> None:
    theirs = make_tokenizer()
    ours = ModelText(folder)
    spoken = ours.spoken(TURNS[:-1], TURNS[-1:])
    assert spoken.text == theirs.apply_chat_template(TURNS, tokenize=False)
    assert ours.spoken(TURNS[:-1], opened=True).text == theirs.apply_chat_template(
        TURNS[:-1], tokenize=False, add_generation_prompt=True
    )
    (ids,) = ours.token_ids([spoken.text])
    assert ids == theirs(spoken.text, add_special_tokens=False)["input_ids"]


def test_loss_is_where_transformers_has_its_assistant_mask(folder: Path) -> None:
    theirs = make_tokenizer().apply_chat_template(
        TURNS, return_dict=True, return_assistant_tokens_mask=True
    )
    ours = ModelText(folder)
    found = list(tokens(ours.spoken(TURNS[:-1], TURNS[-1:]), ours, 10_000))
    assert [int(token.loss) for token in found] == theirs["assistant_masks"]
    assert 0 < sum(token.loss for token in found) < len(found)


def test_without_generation_marks_the_answer_carries_loss(folder: Path, tmp_path: Path) -> None:
    spoken = with_template(folder, tmp_path, PLAIN_TEMPLATE).spoken("Why?", [TURNS[-1]])
    assert spoken.text == "[user]Why?[assistant]Hello!"
    ((start, end),) = spoken.loss
    assert spoken.text[start:end] == "Hello!"


def test_text_is_asked_and_answered_in_turns_as_in_training(folder: Path, tmp_path: Path) -> None:
    asked, answered = (
        {"role": r, "content": c} for r, c in (("user", "Why?"), ("assistant", "So."))
    )
    model = ModelText(folder)
    spoken = model.spoken("Why?", "So.")
    assert spoken == model.spoken([asked], [answered])
    assert spoken.text == make_tokenizer().apply_chat_template([asked, answered], tokenize=False)
    assert model.spoken("Why?", opened=True) == model.spoken([asked], opened=True)
    assert model.spoken("", "What is read.").text == "What is read.<|im_end|>"  # pre-training
    assert with_template(folder, tmp_path, None).spoken("Why?", "So.").text == "Why?So.<|im_end|>"


def test_both_sides_of_a_pair_begin_where_the_answer_does(folder: Path, tmp_path: Path) -> None:
    model = with_template(folder, tmp_path, PLAIN_TEMPLATE)
    for prompt in ("Why?", "How?", "Why?"):
        for answer in ("So.", "Thus!"):
            spoken = model.spoken(prompt, answer)
            ((start, end),) = spoken.loss
            assert spoken.text == f"[user]{prompt}[assistant]{answer}"
            assert spoken.text[start:end] == answer


@pytest.mark.parametrize("command", ["validate", "stats", "show"])
def test_plain_is_what_a_stage_without_as_chat_sees(
    folder: Path, tmp_path: Path, command: str
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Why?", "completion": "So."}])
    model = ModelText(folder)
    plain = len(model.encoded("Why?So.<|im_end|>"))
    chat = len(model.encoded(model.spoken("Why?", "So.").text))
    assert plain < chat
    call = [command, str(source), "--tokenizer", str(folder), "--max-length", str(plain)]
    said = {"validate": "truncated:", "stats": "100.0%", "show": f"{chat - plain} cut at {plain}"}
    assert said[command] in CliRunner().invoke(data, call).output
    assert said[command] not in CliRunner().invoke(data, [*call, "--plain"]).output


def test_plain_text_gets_the_end_token(folder: Path) -> None:
    spoken = ModelText(folder, as_chat=False).spoken("Why?", " So.")
    assert spoken.text == "Why? So.<|im_end|>"
    assert spoken.loss == ((4, len(spoken.text)),)


def test_a_template_cannot_leave_its_sandbox(folder: Path, tmp_path: Path) -> None:
    model = with_template(folder, tmp_path, "{{ messages.__class__.__mro__ }}")
    with pytest.raises(ConfigError, match="the chat template refuses a row"):
        model.spoken([TURNS[1]])


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer.json here"):
        ModelText(tmp_path)
    with pytest.raises(ConfigError, match="no chat template"):
        with_template(folder, tmp_path, None).spoken([TURNS[1]])
    refusing = with_template(folder, tmp_path, "{{ raise_exception('no system') }}")
    with pytest.raises(ConfigError, match="no system"):
        refusing.spoken([TURNS[1]])


def cut(model: ModelText, record: Record, limit: int) -> tuple[Truncation, list[str]]:
    truncation = Truncation(model, limit)
    truncation.add(Where("x", 1), record)
    return truncation, [finding.code for _, finding in truncation.finish()]


def test_truncation_by_hand(folder: Path) -> None:
    model = ModelText(folder, as_chat=False)
    record = Record("preference", "Say", " hello, you one", " hello, you two and three")
    chosen, rejected = (
        len(model.encoded(f"Say{a}<|im_end|>")) for a in (record.chosen, record.rejected)
    )
    shared = len(model.encoded("Say hello, you"))
    prompt = len(model.encoded("Say"))
    assert prompt < shared < chosen < rejected
    assert cut(model, record, rejected)[1] == []
    found, codes = cut(model, record, rejected - 1)
    assert codes == ["truncated"]
    assert (found.cut, found.chosen_cut, found.rejected_cut, found.tokens_cut) == (1, 0, 1, 1)
    assert cut(model, record, shared)[1] == ["truncated", "equal_once_cut"]
    assert cut(model, record, prompt)[1] == ["prompt_truncated"]


def test_truncation_counts_on_a_real_slice(shared_data: Path, folder: Path) -> None:
    model = ModelText(folder)
    (found,) = stats([shared_data / "permissive/dpo_zh_demo.json"], model=model, max_length=2048)
    assert found.truncation
    numbers = found.truncation.as_json()
    assert (numbers["records"], numbers["cut"], numbers["prompt_fills"]) == (300, 97, 10)


def test_a_row_is_shown_token_by_token(folder: Path, tmp_path: Path) -> None:
    row = {"prompt": [TURNS[1]], "chosen": [TURNS[2]], "rejected": [TURNS[4]]}
    source = write_jsonl(tmp_path / "in.jsonl", [row, row])
    model = ModelText(folder)
    limit = len(model.encoded(model.spoken(row["prompt"], row["rejected"]).text)) - 1
    options = ["--row", "2", "--tokenizer", str(folder), "--max-length", str(limit)]
    done = CliRunner().invoke(data, ["show", str(source), *options], color=True)
    assert done.exit_code == 0, done.output
    assert f"{source}:2: pair, preference" in done.output
    pattern = rf"\[(chosen|rejected)\] (\d+) tokens, (\d+) carry loss, (\d+) cut at {limit}"
    counts = re.findall(pattern, done.output)
    for name, total, loss, lost in counts:
        spoken = model.spoken(row["prompt"], row[name])
        found = list(tokens(spoken, model, limit))
        assert (int(total), int(lost)) == (len(found), max(0, len(found) - limit))
        assert int(loss) == sum(token.loss and token.kept for token in found)
        assert "".join(token.text for token in found) == spoken.text
    assert len(counts) == 2
    assert "\x1b[32m" in done.output
    assert "\x1b[31m" in done.output
    plain = CliRunner().invoke(data, ["show", str(source)])
    assert "[chosen]\n四。" in plain.output


def test_a_row_that_is_not_there(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "q", "completion": "a"}])
    done = CliRunner().invoke(data, ["show", str(source), "--row", "9"])
    assert done.exit_code == 2
    assert "row 9 cannot be read or is not there" in done.output


def test_the_page_stands_alone_and_is_the_same_each_time(
    shared_data: Path, folder: Path, tmp_path: Path
) -> None:
    sources = [
        str(shared_data / f"permissive/{n}") for n in ("dpo_zh_demo.json", "oaast_rm_zh.json")
    ]
    pages = [tmp_path / f"{i}.html" for i in range(2)]
    for page in pages:
        options = [
            "--page",
            str(page),
            "--tokenizer",
            str(folder),
            "--report",
            str(tmp_path / "s.json"),
        ]
        done = CliRunner().invoke(data, ["stats", *sources, *options])
        assert done.exit_code == 0, done.output
    text = pages[0].read_text("utf-8")
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert text.count("<svg") == 7  # one of all sources, three of each
    assert not re.search(r"""(?:src|href)=["'](?!#)""", text)
    numbers = json.loads((tmp_path / "s.json").read_text())
    assert [one["rows"] for one in numbers] == [300, 775]
    assert numbers[0]["length_bias"]["chosen_longer"] == 0.6233
    assert numbers[0]["repeated_pairs"] == 11


def test_a_source_name_cannot_write_into_the_page(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "<script>.jsonl", [{"prompt": "q", "completion": "a"}])
    CliRunner().invoke(data, ["stats", str(source), "--page", str(tmp_path / "p.html")])
    assert "<script>" not in (tmp_path / "p.html").read_text("utf-8")


def test_quantiles_by_hand() -> None:
    assert quantiles([4, 1, 3, 2, 5]) == {
        "mean": 3.0,
        "p50": 3.0,
        "p90": 5.0,
        "p95": 5.0,
        "p99": 5.0,
        "p100": 5.0,
    }


ENDLESS = {
    "nested loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "a macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}"
    ),
    "a macro without an end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a loop over itself": (
        "{% for m in messages recursive %}{{ loop(messages) }}{{ loop(messages) }}{% endfor %}"
    ),
    "doubled text": (
        "{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}"
        "{% endfor %}"
    ),
    "summed lists": (
        "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}"
        "{% endfor %}"
    ),
    "a product": "{{ 'a' * 10 ** 11 }}",
    "a power": "{{ 9 ** 9 ** 9 ** 9 ** 9 ** 9 }}",
    "much text": "{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_without_an_end_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    model = with_template(folder, tmp_path, ENDLESS[name])
    with pytest.raises(ConfigError, match="the chat template refuses a row"):
        model.spoken([TURNS[1]])


def test_steps_are_counted_anew_for_every_row(folder: Path, tmp_path: Path) -> None:
    model = with_template(folder, tmp_path, "{% for i in range(99999) %}{% endfor %}x")
    assert [model.spoken([TURNS[1]]).text for _ in range(12)] == ["x"] * 12


def test_counting_leaves_loops_as_they_are(folder: Path, tmp_path: Path) -> None:
    template = (
        "{% for m in messages if m.role != 'system' %}{{ loop.index ~ '/' ~ loop.length }}"
        "{{ '' if loop.last else ',' }}{% else %}none{% endfor %}"
        "{% for key, value in {'a': 1}.items() %} {{ key }}{{ value }}{% endfor %}"
        "{% for x in nothing %}{% else %} {{ loop is defined }}{% endfor %}"
    )
    model = with_template(folder, tmp_path, template)
    assert model.spoken(TURNS).text == "1/4,2/4,3/4,4/4 a1 False"


@pytest.mark.parametrize("template", ["{{ 1 + 'a' }}", "{{ messages[0].content + none }}"])
def test_faults_of_a_template_are_told_as_such(folder: Path, tmp_path: Path, template: str) -> None:
    with pytest.raises(ConfigError, match="the chat template refuses a row"):
        with_template(folder, tmp_path, template).spoken([TURNS[1]])


def test_a_template_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the chat template cannot be read"):
        with_template(folder, tmp_path, "{% for %}")


def test_what_the_cut_does_to_a_whole_set(folder: Path, tmp_path: Path) -> None:
    short, long = "Yes.", "Yes, and so on. " * 20
    rows = [
        {"prompt": f"{i}?", "chosen": short, "rejected": long if i < 60 else short + "!"}
        for i in range(200)
    ]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    report = validate([source], model=ModelText(folder), max_length=64)
    assert report.totals["truncated"] == 60
    assert report.totals["truncated_share"] == 1
    (cut,) = report.examples["cut_one_side"]
    assert (cut.row, cut.finding.part) == (0, "rejected")
    assert cut.finding.found == "rejected 60, chosen 0 times"
    whole = validate([source], model=ModelText(folder), max_length=4096).totals
    assert not {"truncated", "truncated_share", "cut_one_side"} & whole.keys()


def test_the_tokenizers_own_tokens_must_not_stand_in_a_text(folder: Path, tmp_path: Path) -> None:
    model = ModelText(folder)
    model.special_tokens = (*model.special_tokens, "<my-mark>")
    rows = [{"prompt": "Why?", "chosen": "So <my-mark> it is.", "rejected": "No."}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    assert "<|im_end|>" in model.special_tokens
    assert validate([source]).totals["special_token"] == 0
    assert validate([source], model=model).totals["special_token"] == 1
