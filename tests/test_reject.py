"""`align data reject` through its entry point on the tiny model: pairs, marks, resume, processes.

Processes that are killed are forked from a server that has torch loaded, so that a dozen starts
cost seconds; each is a process of its own and ends by a real SIGKILL.
"""

import json
import multiprocessing
import os
import random
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import PATIENCE, write_jsonl

from alignment.reject.output import Dropped, make_pair, similarity
from alignment.reject.parts import Parts
from alignment.reject.rows import Item
from alignment.runs.record import Run
from data_tools.shapes import load_records

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["alignment.reject.work", "alignment.cli"])
WORDS = ["--max-new-tokens", "12", "--batch-size", "4", "--temperature", "1"]
LONG_WORDS = ["--max-new-tokens", "48", *WORDS[2:]]


def align(*words: object) -> int:
    """Run the command line here; its exit code."""
    from alignment.cli import main

    try:
        main([str(word) for word in words], prog_name="align")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def reject(prompts: Path, model: Path, output: Path, *more: object) -> int:
    return align("data", "reject", prompts, "--model", model, "-o", output, *more)


def _in_child(words: list[str], environment: dict[str, str]) -> None:
    import torch

    from alignment.cli import entry_point

    torch.set_num_threads(1)
    os.environ.update(environment)
    sys.path[:0] = filter(None, [environment.get("PYTHONPATH")])
    sys.argv = ["align", *words]
    entry_point()


def start(*words: object, **environment: str) -> Any:
    child = FORKED.Process(target=_in_child, args=([str(word) for word in words], environment))
    child.start()
    return child


def ended(*children: Any) -> list[int | None]:
    for child in children:
        child.join(timeout=PATIENCE)
    return [child.exitcode for child in children]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def files_of(output: Path) -> dict[str, bytes]:
    """All that lies beside an output and bears its name, by what follows the name."""
    stem = output.name.removesuffix(".jsonl")
    found = [path for path in output.parent.iterdir() if stem in path.name]
    return {p.name.replace(stem, "", 1): p.read_bytes() for p in found if p.is_file()} | {
        p.name.replace(stem, "", 1): b"" for p in found if p.is_dir()
    }


@pytest.fixture
def alpaca(tmp_path: Path) -> Path:
    """Forty rows of differing lengths."""
    draw = random.Random(0)
    rows = [
        {"instruction": f"say {i} " + "x" * draw.randrange(40), "input": "", "output": f"it is {i}"}
        for i in range(40)
    ]
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Path:
    """The tiny model with weights so uneven that it speaks greedily as well."""
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("talker")
    shutil.copytree(tiny_dir, folder, dirs_exist_ok=True)
    config = AutoConfig.from_pretrained(tiny_dir)
    config.tie_word_embeddings, config.initializer_range = False, 0.7
    torch.manual_seed(3)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_scorer(folder: Path, tiny_dir: Path, *, head: float) -> Path:
    import torch
    from transformers import AutoConfig, LlamaForSequenceClassification

    config = AutoConfig.from_pretrained(tiny_dir, num_labels=1)
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config)
    model.score.weight.data.mul_(head)
    shutil.copytree(tiny_dir, folder)
    model.save_pretrained(folder)
    return folder


# Pairs


def test_the_models_answer_becomes_the_rejected_side(
    alpaca: Path, tiny_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    assert reject(alpaca, tiny_dir, output, *WORDS, "--seed", 5) == 0
    rows, source = rows_of(output), json.loads(alpaca.read_text())
    assert [row["prompt"] for row in rows] == [row["instruction"] for row in source]
    assert [row["chosen"] for row in rows] == [row["output"] for row in source]
    assert [row["source_row"] for row in rows] == list(range(1, 41))
    assert {row["source"] for row in rows} == {"alpaca.json"}
    assert len({row["rejected"] for row in rows}) == 40
    assert len({row["group_id"] for row in rows}) == 40
    assert {row["finish_reason"] for row in rows} <= {"stop", "length"}
    pairs = list(load_records(output, kind="preference"))
    assert pairs == [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
    meta = json.loads((tmp_path / "out.jsonl.meta.json").read_text())
    assert meta["model"]["path"] == str(tiny_dir)
    assert meta["settings"]["model"] == meta["model"]["fingerprint"]
    wanted = {"seed": 5, "max_new_tokens": 12, "temperature": 1.0, "as_chat": True, "device": "cpu"}
    assert wanted.items() <= meta["settings"].items()
    assert {"torch", "transformers"} <= meta["settings"]["versions"].keys()
    cut = sum(row["finish_reason"] == "length" for row in rows)
    assert meta["counts"] == {
        "rows_in": 40, "rows_out": 40, "dropped": {}, "marked": {"cut by length": cut},
    }  # fmt: skip
    assert files_of(output).keys() == {".jsonl", ".jsonl.meta.json"}
    out, err = capfd.readouterr()
    assert f"{cut:,}  cut by length" in out
    assert "40 rows in, 40 pairs out" in out
    assert "40/40" in err
    assert "left" in err


@pytest.mark.parametrize("chat", ["--as-chat", "--plain"])
def test_greedy_answers_equal_those_of_one_prompt_at_a_time(
    chat: str, alpaca: Path, talker: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    output = tmp_path / "out.jsonl"
    words = [chat, "--limit", 10, "--max-new-tokens", 12, "--batch-size", 4]
    assert reject(alpaca, talker, output, *words) == 0
    rows = rows_of(output)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(talker),
        AutoTokenizer.from_pretrained(talker),
    )
    assert len({row["rejected"] for row in rows}) > 5
    for row in rows:
        prompt = [{"role": "user", "content": row["prompt"]}]
        ids = tokenizer(row["prompt"])["input_ids"]
        if chat == "--as-chat":
            ids = tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, return_dict=False
            )
        found = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=12,
            do_sample=False,
        )[0, len(ids) :]  # fmt: skip
        assert row["rejected"] == tokenizer.decode(found, skip_special_tokens=True)
        stopped = found[-1] == tokenizer.eos_token_id
        assert row["finish_reason"] == ("stop" if stopped else "length")


def test_conversations_stay_messages_and_strings_join_them(tiny_dir: Path, tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "what is two"},
        {"role": "assistant", "content": "a number"},
    ]
    talks = write_jsonl(tmp_path / "talks.jsonl", [{"messages": turns}])
    plain = write_jsonl(tmp_path / "plain.jsonl", [{"prompt": "hey", "completion": "you"}])
    output = tmp_path / "out.jsonl"
    assert align(
        "data", "reject", talks, plain, "--model", tiny_dir, "-o", output, *WORDS
    ) == 0  # fmt: skip
    first, second = rows_of(output)
    assert (first["prompt"], first["chosen"]) == (turns[:4], turns[4:])
    assert [turn["role"] for turn in first["rejected"]] == ["assistant"]
    assert second["prompt"] == [{"role": "user", "content": "hey"}]
    assert second["chosen"] == [{"role": "assistant", "content": "you"}]
    assert [row["source"] for row in (first, second)] == ["talks.jsonl", "plain.jsonl"]


def test_where_a_row_came_from_is_handed_on(tiny_dir: Path, tmp_path: Path) -> None:
    row = {"prompt": "a", "completion": "b", "source": "origin.json", "source_row": 77}
    output = tmp_path / "out.jsonl"
    assert reject(write_jsonl(tmp_path / "in.jsonl", [row]), tiny_dir, output, *WORDS) == 0
    (pair,) = rows_of(output)
    assert (pair["source"], pair["source_row"]) == ("origin.json", 77)


def test_equal_rows_are_dropped_and_near_ones_marked(
    alpaca: Path, tiny_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "first.jsonl"
    assert reject(alpaca, tiny_dir, first, "--limit", 12, *WORDS) == 0
    answers = [row["rejected"] for row in rows_of(first)]
    rows = json.loads(alpaca.read_text())[:12]
    rows[3]["output"] = answers[3]
    rows[5]["output"] = f"  {answers[5]}\n"
    rows[7]["output"] = f"{answers[7]} and so on"
    again = tmp_path / "again.json"
    again.write_text(json.dumps(rows))
    output, kept = tmp_path / "out.jsonl", tmp_path / "kept.jsonl"
    assert reject(again, tiny_dir, output, *WORDS) == 0
    pairs = rows_of(output)
    assert [row["source_row"] for row in pairs] == [1, 2, 3, 5, 7, 8, 9, 10, 11, 12]
    assert [row["source_row"] for row in pairs if row["near_equal"]] == [8]
    dropped = rows_of(tmp_path / "out.dropped.jsonl")
    assert [(row["source_row"], row["reason"]) for row in dropped] == [(4, "equal"), (6, "equal")]
    assert dropped[0]["answers"][0]["text"] == answers[3]
    assert "2  equal" in capfd.readouterr().out
    assert reject(again, tiny_dir, kept, *WORDS, "--keep-equal") == 0
    assert [row["source_row"] for row in rows_of(kept) if row["equal"]] == [4, 6]
    assert not (tmp_path / "kept.dropped.jsonl").exists()


@pytest.mark.parametrize(
    ("chosen", "rejected", "equal", "near"),
    [
        ("It is four.", "it is  four.\n", True, False),
        ("等于４", "等于4", True, False),
        ("It is four.", "It is", False, True),
        ("a" * 100, "a" * 96 + "bbbb", False, True),  # 96 % alike
        ("a" * 100, "a" * 94 + "b" * 6, False, False),  # 94 %
        ("one", "two", False, False),
    ],
)
def test_similarity(chosen: str, rejected: str, equal: bool, near: bool) -> None:
    assert similarity(chosen, rejected) == {"equal": equal, "near_equal": near}


def test_a_prompt_that_leaves_no_room_is_dropped_by_name(tiny_dir: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "x" * n, "completion": "y"} for n in (5, 900, 6)]
    output = tmp_path / "out.jsonl"
    assert reject(write_jsonl(tmp_path / "in.jsonl", rows), tiny_dir, output, *WORDS) == 0
    assert [row["source_row"] for row in rows_of(output)] == [1, 3]
    (dropped,) = rows_of(tmp_path / "out.dropped.jsonl")
    assert (dropped["source_row"], dropped["reason"]) == (2, "prompt_too_long")


# On-policy pairs


@pytest.mark.parametrize("answered", [False, True], ids=["prompts", "with answers"])
def test_best_and_worst_of_the_samples_become_the_pair(
    answered: bool, alpaca: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    from alignment.ppo.rewards import load_rewards

    scorer = make_scorer(tmp_path / "scorer", tiny_dir, head=50.0)
    more = {"completion": "not asked for"} if answered else {}
    prompts = [{"prompt": row["instruction"], **more} for row in json.loads(alpaca.read_text())[:9]]
    output = tmp_path / "out.jsonl"
    words = ["--num-samples", 3, "--reward-model", scorer, *WORDS]
    assert reject(write_jsonl(tmp_path / "in.jsonl", prompts), tiny_dir, output, *words) == 0
    rows = rows_of(output)
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in prompts]
    (reward,), _ = load_rewards(
        [str(scorer)], policy_tokenizer=AutoTokenizer.from_pretrained(tiny_dir)
    )
    for row in rows:
        assert row["margin"] == row["score_chosen"] - row["score_rejected"] > 0
        asked = [{"role": "user", "content": row["prompt"]}]
        for side in ("chosen", "rejected"):
            said = [{"role": "assistant", "content": row[side]}]
            (score,) = reward(prompts=[asked], completions=[said])
            assert score == pytest.approx(row[f"score_{side}"], abs=1e-3)
    assert len(list(load_records(output, kind="preference"))) == 9


def test_ties_of_the_reward_model_are_dropped(
    alpaca: Path, tiny_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scorer = make_scorer(tmp_path / "scorer", tiny_dir, head=0.0)
    output = tmp_path / "out.jsonl"
    words = ["--num-samples", 2, "--reward-model", scorer, "--limit", 4, *WORDS]
    assert reject(alpaca, tiny_dir, output, *words) == 0
    assert rows_of(output) == []
    dropped = rows_of(tmp_path / "out.dropped.jsonl")
    assert [row["reason"] for row in dropped] == ["tie"] * 4
    assert [row["scores"] for row in dropped] == [[0.0, 0.0]] * 4
    assert "4  tie" in capfd.readouterr().out


def test_a_reward_model_that_guesses_is_refused_unless_asked_for(
    alpaca: Path, tiny_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scorer = make_scorer(tmp_path / "scorer", tiny_dir, head=50.0)
    Run("rm", "scorer", "f", status="finished", metrics={"eval_accuracy": 0.5}).write(scorer)
    output = tmp_path / "out.jsonl"
    words = ["--num-samples", 2, "--reward-model", scorer, "--limit", 4, *WORDS]
    assert reject(alpaca, tiny_dir, output, *words) == 2
    assert "50.0% of cases, under the gate of 55%" in capfd.readouterr().err
    assert not output.exists()
    assert reject(alpaca, tiny_dir, output, *words, "--reward-accuracy-gate", 0.4) == 0
    meta = json.loads((tmp_path / "out.jsonl.meta.json").read_text())
    assert (meta["reward_model"]["fingerprint"], meta["reward_model"]["stage"]) == ("f", "rm")


def test_make_pair_picks_by_score_and_passes_over_empty_answers() -> None:
    item = Item("ask", None, "s", 1, "g", "s:1")

    def answer(text: str, reason: str = "stop") -> dict[str, Any]:
        return {"text": text, "finish_reason": reason}

    texts = [answer("b"), answer(" "), answer("d", "length"), answer("a"), answer("e")]
    pair = make_pair(item, {"answers": texts, "scores": [1.0, 9.0, 3.0, -2.0, 3.0]})
    assert (pair["chosen"], pair["rejected"], pair["margin"]) == ("d", "a", 5.0)
    assert (pair["chosen_finish_reason"], pair["finish_reason"]) == ("length", "stop")
    for reason, answers, scores in (
        ("tie", [answer("a"), answer("b")], [1.0, 1.0]),
        ("tie", [answer("a"), answer("A ")], [1.0, 2.0]),
        ("empty", [answer("a"), answer("")], [1.0, 2.0]),
    ):
        with pytest.raises(Dropped, match=reason):
            make_pair(item, {"answers": answers, "scores": scores})
    with pytest.raises(Dropped, match="empty"):
        make_pair(Item("ask", "right", "s", 1, "g", "s:1"), {"answers": [answer("\n")]})


# Resume


def wait_for(parts: Path, *, lines: int, child: Any) -> None:
    """Until the part files hold that many lines, or the child has ended."""
    while child.is_alive():
        try:
            if sum(path.read_bytes().count(b"\n") for path in parts.glob("part-*")) >= lines:
                return
        except FileNotFoundError:  # all is done, and the parts are being deleted
            return
        time.sleep(0.002)


def run_with_kills(
    draw: random.Random, prompts: Path, model: Path, output: Path, *, kills: int
) -> int:
    """Run to the end through some kills at random moments; how many found work half done."""
    words = ["data", "reject", prompts, "--model", model, "-o", output, *LONG_WORDS]
    parts, halfway = Path(f"{output}.parts"), 0
    for _ in range(kills):
        child = start(*words)
        done = len(Parts(parts).rows())
        wait_for(parts, lines=1 + done + draw.randrange(1, 9), child=child)
        time.sleep(draw.random() * 0.05)
        child.kill()
        ended(child)
        halfway += not output.exists() and 0 < len(Parts(parts).rows()) < 40
    assert ended(start(*words)) == [0]
    return halfway


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Any:
    """Makes what an undisturbed run writes, once."""
    made: dict[bytes, dict[str, bytes]] = {}

    def make(prompts: Path) -> dict[str, bytes]:
        key = prompts.read_bytes()
        if key not in made:
            output = tmp_path_factory.mktemp("whole") / "out.jsonl"
            assert ended(
                start("data", "reject", prompts, "--model", tiny_dir, "-o", output, *LONG_WORDS)
            ) == [0]
            made[key] = files_of(output)
        return made[key]

    return make


def made(found: dict[str, bytes]) -> dict[str, Any]:
    """What a run left: bytes, but for where its input lay."""
    meta = json.loads(found[".jsonl.meta.json"])
    meta["inputs"] = [source["sha256"] for source in meta["inputs"]]
    return {**found, ".jsonl.meta.json": meta}


def test_killed_runs_end_as_an_undisturbed_one(
    alpaca: Path, tiny_dir: Path, tmp_path: Path, whole: Any
) -> None:
    output = tmp_path / "out.jsonl"
    halfway = run_with_kills(random.Random(1), alpaca, tiny_dir, output, kills=4)
    assert halfway >= 2
    assert made(files_of(output)) == made(whole(alpaca))
    assert not Path(f"{output}.parts").exists()
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_many_kills(seed: int, alpaca: Path, tiny_dir: Path, tmp_path: Path, whole: Any) -> None:
    output = tmp_path / "out.jsonl"
    run_with_kills(random.Random(seed), alpaca, tiny_dir, output, kills=8)
    assert made(files_of(output)) == made(whole(alpaca))


def launch_two(words: list[object]) -> list[Any]:
    """Two processes with what a launcher tells them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    return [start(*words, RANK=r, LOCAL_RANK=r, **shared) for r in ("0", "1")]


def test_two_processes_write_what_one_does_also_when_killed(
    alpaca: Path, tiny_dir: Path, tmp_path: Path, whole: Any
) -> None:
    output = tmp_path / "out.jsonl"
    words = ["data", "reject", alpaca, "--model", tiny_dir, "-o", output, *LONG_WORDS]
    both = launch_two(words)
    wait_for(Path(f"{output}.parts"), lines=2 + 16, child=both[0])
    for child in both:
        child.kill()
    ended(*both)
    assert {p.name for p in Path(f"{output}.parts").iterdir()} == {"part-0.jsonl", "part-1.jsonl"}
    assert 0 < len(Parts(Path(f"{output}.parts")).rows()) < 40
    assert ended(*launch_two(words)) == [0, 0]
    assert made(files_of(output)) == made(whole(alpaca))


def test_a_resume_with_other_settings_is_refused_by_name(
    alpaca: Path, tiny_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    words = ["data", "reject", alpaca, "--model", tiny_dir, "-o", output, *LONG_WORDS]
    child = start(*words)
    wait_for(Path(f"{output}.parts"), lines=9, child=child)
    child.kill()
    ended(child)
    before = Parts(Path(f"{output}.parts")).rows()
    assert align(*words, "--seed", 1, "--max-new-tokens", 13) == 2
    error = capfd.readouterr().err
    error = error[error.index("error: ") :]  # the server of processes warns when it starts
    assert "cannot continue with other settings: max_new_tokens 48 -> 13; seed 0 -> 1" in error
    assert len(error.splitlines()) == 2
    alpaca.write_text(alpaca.read_text().replace("it is 3", "it was 3"))
    assert align(*words) == 2
    assert "other settings: inputs" in capfd.readouterr().err
    assert Parts(Path(f"{output}.parts")).rows() == before
    assert align(*words, "--seed", 1, "--overwrite") == 0
    assert len(rows_of(output)) == 40


def test_a_finished_run_is_not_done_again(
    alpaca: Path, tiny_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    words = ["--limit", 8, *WORDS]
    assert reject(alpaca, tiny_dir, output, *words) == 0
    before = files_of(output)
    Path(f"{output}.parts").mkdir()  # a kill came just before it was deleted
    assert reject(alpaca, tiny_dir, output, *words) == 0
    assert "finished already; nothing was changed" in capfd.readouterr().out
    assert files_of(output) == before
    assert reject(alpaca, tiny_dir, output, *words, "--seed", 2) == 2
    assert "exists already" in capfd.readouterr().err
    assert files_of(output) == before
    assert reject(alpaca, tiny_dir, output, *words, "--seed", 2, "--overwrite") == 0
    assert files_of(output) != before


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    cut=st.integers(0, 10_000),
    torn=st.binary(max_size=40),
)
def test_a_part_cut_anywhere_loses_only_what_is_done_again(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], cut: int, torn: bytes
) -> None:
    parts = Parts(tmp_path_factory.mktemp("parts") / "p")
    numbers = iter(range(100))
    batches = [[{"row": next(numbers), "text": "é\n"} for _ in range(size)] for size in sizes]
    with parts.appending(0, {"seed": 1}) as part:
        for number, rows in enumerate(batches):
            part.add(number, rows)
    every = parts.rows()
    assert sorted(every) == list(range(sum(sizes)))
    path = parts.folder / "part-0.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[: cut % (len(data) + 1)] + torn.replace(b"\n", b""))
    left = parts.rows()
    assert left.items() <= every.items()
    whole = [number for number, rows in enumerate(batches) if rows[0]["row"] in left]
    assert whole == list(range(len(whole)))
    assert len(left) == sum(sizes[: len(whole)])
    with parts.appending(0, {"seed": 1}) as part:
        for number in range(len(whole), len(batches)):
            part.add(number, batches[number])
    assert path.read_bytes() == data


# Mistakes


ROW = {"prompt": "a", "completion": "b"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.jsonl"], "none.jsonl: no such file"),
        (["bad.jsonl"], "bad.jsonl:2"),
        (["prompts.jsonl"], "prompts without answers"),
        (["good.jsonl", "--model", "nowhere"], "model: nowhere: no such folder"),
        (["good.jsonl", "--model", "empty"], "model: empty: no model here"),
        (["good.jsonl", "--model", "SCORER"], "scores answers and cannot generate any"),
        (["good.jsonl", "--num-samples", "2"], "answers per prompt need a reward model"),
        (["good.jsonl", "--reward-model", "SCORER"], "needs more than one answer per prompt"),
        (["good.jsonl", "--reward-model", "nowhere", "--num-samples", "2"], "reward_model: nowhe"),
        (["good.jsonl", "--reward-model", "SCORER", "--num-samples", "2", "--temperature", "0"],
         "temperature: at 0 all samples"),
        (["good.jsonl", "--vllm"], "--vllm: vLLM is not installed"),
        (["good.jsonl", "-o", "good.jsonl"], "this is one of the sources"),
        (["good.jsonl", "-o", "empty"], "empty: is a folder"),
        (["good.jsonl", "--max-new-tokens", "0"], "max_new_tokens: 0 is below 1"),
        (["good.jsonl", "--max-new-tokens", "600"], "all 2 prompts and 600 new tokens exceed"),
        (["good.jsonl", "--format", "alpacca"], "alpacca"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_a_mistake_is_reported_before_a_model_is_loaded(
    words: list[str], message: str, tmp_path: Path, tiny_dir: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("good.jsonl"), [ROW, ROW])
    write_jsonl(Path("bad.jsonl"), [ROW, {"prompt": "a", "completion": None}])
    write_jsonl(Path("prompts.jsonl"), [{"prompt": "a"}])
    Path("empty").mkdir()
    for name in ("unloadable", "SCORER"):
        shutil.copytree(tiny_dir, name)
        Path(name, "model.safetensors").write_bytes(b"no weights")
    config = json.loads(Path("SCORER/config.json").read_text())
    config["architectures"] = ["LlamaForSequenceClassification"]
    Path("SCORER/config.json").write_text(json.dumps(config))
    before = sorted(tmp_path.rglob("*"))
    given = [*words, *(["--model", "unloadable"] if "--model" not in words else [])]
    assert align("data", "reject", *given, *(["-o", "out.jsonl"] if "-o" not in words else [])) == 2
    error = capfd.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert len(error.splitlines()) <= 2
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_has_one_writer(
    alpaca: Path, tiny_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from alignment.runs.lock import locked

    with locked(tmp_path / "out.jsonl"):
        assert reject(alpaca, tiny_dir, tmp_path / "out.jsonl", *WORDS) == 2
    assert f"in use by process {os.getpid()}" in capfd.readouterr().err


VLLM = '''
"""Stands in for vLLM with its signatures: answers the prompt's own tokens, last first."""
from types import SimpleNamespace

class SamplingParams:
    def __init__(self, *, n, temperature, max_tokens, stop_token_ids, seed):
        self.__dict__.update(locals())

class LLM:
    def __init__(self, model, generation_config, seed):
        assert generation_config == "vllm"

    def generate(self, prompts, sampling, use_tqdm):
        assert len({one.seed for one in sampling}) == len(prompts)
        return [self._answer(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling)]

    def _answer(self, ids, sampling):
        said = ids[::-1][: sampling.max_tokens]
        outputs = [SimpleNamespace(token_ids=tuple(said), finish_reason="length")] * sampling.n
        return SimpleNamespace(outputs=outputs)
'''


def test_vllm_is_asked_in_its_own_words(alpaca: Path, tiny_dir: Path, tmp_path: Path) -> None:
    """The real one needs a GPU; this holds what we hand over and what we take back.

    In a child, since libraries remember whether they saw a vLLM.
    """
    site = tmp_path / "site"
    (site / "vllm").mkdir(parents=True)
    (site / "vllm" / "__init__.py").write_text(VLLM)
    (site / "vllm-0.20.0.dist-info").mkdir()
    (site / "vllm-0.20.0.dist-info" / "METADATA").write_text("Name: vllm\nVersion: 0.20.0\n")
    output = tmp_path / "out.jsonl"
    words = ["--vllm", "--plain", "--limit", 6, "--max-new-tokens", 300]
    named = ["data", "reject", alpaca, "--model", tiny_dir, "-o", output]
    assert ended(start(*named, *words, PYTHONPATH=str(site))) == [0]
    rows = rows_of(output)
    assert [row["finish_reason"] for row in rows] == ["length"] * 6
    assert all(row["rejected"].endswith("yas") for row in rows)  # "say" was one token a letter
    meta = json.loads((tmp_path / "out.jsonl.meta.json").read_text())
    assert meta["settings"]["engine"] == "vllm"
    assert meta["settings"]["versions"]["vllm"] == "0.20.0"
