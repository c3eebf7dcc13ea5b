"""What a length limit cuts, a row as it is shown, the page of statistics."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import make_tokenizer, write_jsonl

from data_tools.checks import Where
from data_tools.checks.lengths import Truncation
from data_tools.checks.validate import validate
from data_tools.cli import data
from data_tools.formats import Record
from data_tools.rendering import Renderer, read_tokenizer
from data_tools.stats.measure import quantiles, stats
from data_tools.stats.show import sides

QUESTION = {"role": "user", "content": "二加二等于几？"}
RIGHT = {"role": "assistant", "content": "四。"}
OTHER = {"role": "assistant", "content": "Hello!"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(path)
    return path


def length(text: str) -> int:
    return len(make_tokenizer()(text)["input_ids"])


@pytest.mark.parametrize("command", ["validate", "stats", "show"])
def test_plain_is_what_a_stage_without_as_chat_sees(
    folder: Path, tmp_path: Path, command: str
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Why?", "completion": "So."}])
    model = Renderer(read_tokenizer(folder))
    plain = length("Why?So.<|im_end|>")
    (side,) = sides(Record(kind="sft", prompt="Why?", completion="So."), model, 99)
    chat = len(side.tokens)
    assert plain < chat
    call = [command, str(source), "--tokenizer", str(folder), "--max-length", str(plain)]
    wanted = {"validate": "truncated:", "stats": "100.0%", "show": f"{chat - plain} cut at {plain}"}
    assert wanted[command] in CliRunner().invoke(data, call).output
    assert wanted[command] not in CliRunner().invoke(data, [*call, "--plain"]).output


def cut(model: Renderer, record: Record, limit: int) -> tuple[Truncation, list[str]]:
    truncation = Truncation(model, limit)
    truncation.add(Where("x", 1), record)
    return truncation, [finding.code for _, finding in truncation.finish()]


def test_truncation_by_hand(folder: Path) -> None:
    model = Renderer(read_tokenizer(folder), as_chat=False)
    record = Record(
        kind="preference",
        prompt="Say",
        chosen=" hello, you one",
        rejected=" hello, you two and three",
    )
    chosen, rejected = (length(f"Say{a}<|im_end|>") for a in (record.chosen, record.rejected))
    shared, prompt = length("Say hello, you"), length("Say")
    assert prompt < shared < chosen < rejected
    assert cut(model, record, rejected)[1] == []
    found, codes = cut(model, record, rejected - 1)
    assert codes == ["truncated"]
    assert (found.cut, found.chosen_cut, found.rejected_cut, found.tokens_cut) == (1, 0, 1, 1)
    assert cut(model, record, shared)[1] == ["truncated", "equal_once_cut"]
    assert cut(model, record, prompt)[1] == ["prompt_truncated"]


def test_truncation_counts_on_a_real_slice(shared_data: Path, folder: Path) -> None:
    model = Renderer(read_tokenizer(folder))
    (found,) = stats([shared_data / "permissive/dpo_zh_demo.json"], model=model, max_length=2048)
    assert found.truncation
    numbers = found.truncation.as_json()
    assert (numbers["records"], numbers["cut"], numbers["prompt_fills"]) == (300, 97, 10)


def test_a_row_is_shown_token_by_token(folder: Path, tmp_path: Path) -> None:
    row = {"prompt": [QUESTION], "chosen": [RIGHT], "rejected": [OTHER]}
    source = write_jsonl(tmp_path / "in.jsonl", [row, row])
    record = Record(kind="preference", prompt=[QUESTION], chosen=[RIGHT], rejected=[OTHER])
    model = Renderer(read_tokenizer(folder))
    limit = len(sides(record, model, 99)[1].tokens) - 1
    texts = {name: one.text for name, one in model.sequences(record).items()}
    options = ["--row", "2", "--tokenizer", str(folder), "--max-length", str(limit)]
    done = CliRunner().invoke(data, ["show", str(source), *options], color=True)
    assert done.exit_code == 0, done.output
    assert f"{source}:2: pair, preference" in done.output
    pattern = rf"\[(chosen|rejected)\] (\d+) tokens, (\d+) carry loss, (\d+) cut at {limit}"
    counts = re.findall(pattern, done.output)
    for (name, total, loss, lost), side in zip(counts, sides(record, model, limit), strict=True):
        found = side.tokens
        assert (int(total), int(lost)) == (len(found), max(0, len(found) - limit))
        assert int(loss) == sum(token.loss and token.kept for token in found)
        assert "".join(token.text for token in found) == texts[name]
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


def test_what_the_cut_does_to_a_whole_set(folder: Path, tmp_path: Path) -> None:
    short, long = "Yes.", "Yes, and so on. " * 20
    rows = [
        {"prompt": f"{i}?", "chosen": short, "rejected": long if i < 60 else short + "!"}
        for i in range(200)
    ]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    model = Renderer(read_tokenizer(folder))
    report = validate([source], model=model, max_length=64)
    assert report.totals["truncated"] == 60
    assert report.totals["truncated_share"] == 1
    (cut,) = report.examples["cut_one_side"]
    assert (cut.where.row, cut.finding.part) == (0, "rejected")
    assert cut.finding.found == "rejected 60, chosen 0 times"
    whole = validate([source], model=model, max_length=4096).totals
    assert not {"truncated", "truncated_share", "cut_one_side"} & whole.keys()


def test_the_tokenizers_own_tokens_must_not_be_in_a_text(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<my-mark>"]})
    tokenizer.save_pretrained(tmp_path)
    model = Renderer(read_tokenizer(tmp_path))
    rows = [{"prompt": "Why?", "chosen": "So <my-mark> it is.", "rejected": "No."}]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    assert validate([source]).totals["special_token"] == 0
    assert validate([source], model=model).totals["special_token"] == 1


def test_another_chat_template_is_named_as_in_the_stages(folder: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "Why?", "completion": "So."}])
    call = ["show", str(source), "--tokenizer", str(folder)]
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}<|im_end|>{% endfor %}")

    def shown(*more: str) -> str:
        done = CliRunner().invoke(data, [*call, *more])
        assert done.exit_code == 0, done.output
        return done.output

    assert "<|im_start|>" in shown()
    for option in ("--chat-template", "--chat_template"):
        text = shown(option, str(file))
        assert "<assistant>" in text.replace("\n", "")
        assert "<|im_start|>" not in text
    assert shown("--chat_template", "chatml") != shown("--chat_template", str(file))
    refused = CliRunner().invoke(data, [*call, "--chat_template", "chatmll"])
    assert refused.exit_code == 2
    assert "no such file, model folder or known template" in refused.output
    assert "did you mean chatml?" in refused.output
    alone = CliRunner().invoke(data, [*call[:2], "--chat_template", "chatml"])
    assert "--chat-template has no effect without --tokenizer" in alone.output
