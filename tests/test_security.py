"""Planted keys turn up nowhere; nothing unsafe is called; no telemetry unless it is asked for."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import REPOSITORY, write_jsonl
from test_reliability import sft
from test_secrets import TOKENS

from alignment import cli
from alignment.errors import ConfigError
from alignment.pipeline.file import read_pipeline
from alignment.pipeline.run import plan_pipeline
from alignment.runs import changes_since, new_run
from alignment.secrets import redact, redact_text, redact_words
from alignment.settings.resolve import describe, resolve
from alignment.trackers.callback import lineage
from alignment.trackers.files import FileTracker
from alignment.training import run
from alignment.training.run import run_stage

KEYS = {
    "HF_TOKEN": "hf_" + "Planted0" * 4,
    "WANDB_API_KEY": "0123456789abcdef" * 2 + "01234567",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIplantedK7MDENGbPxRfiCYEXAMPLE",
    "OPENAI_API_KEY": "sk-plantedplantedplanted",
}
FLAG = "hf_" + "FlagOnly" * 4
PACKAGE = sorted((REPOSITORY / "alignment").rglob("*.py")) + sorted(
    (REPOSITORY / "data_tools").rglob("*.py")
)


def test_planted_keys_are_in_no_file_and_no_output(tmp_path: Path, tiny_dir: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"hub_token: {FLAG}\n")
    words = sft(tmp_path, tiny_dir, "--max_steps", "2", "--save_steps", "1", "--hub_token", FLAG)
    words[words.index("--report_to") + 1] = "wandb"
    environment = {
        **os.environ, **KEYS, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore",
        "WANDB_MODE": "offline",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "alignment", "sft", str(recipe), *words],
        capture_output=True, check=False, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    written = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert any(path.name == "training_args.bin" for path in written)
    assert any(path.suffix == ".wandb" for path in written)
    written |= {Path("stdout"): done.stdout, Path("stderr"): done.stderr}
    for key in (*KEYS.values(), FLAG):
        holding = [path.name for path, content in written.items() if key.encode() in content]
        assert not holding, key[:6]


#: A reward that fails with the whole environment in its message, and says it in other ways before.
LEAKY = """\
import json, logging, os, threading, warnings
def reward(completions, **_):
    reward.calls += 1
    if reward.calls < 2:
        return [0.0 for _ in completions]
    logging.getLogger("judge").warning("asked with %s", dict(os.environ))
    logging.getLogger("transformers.judge").warning("asked with " + os.environ["OPENAI_API_KEY"])
    warnings.warn("asked with " + os.environ["DATABASE_PASSWORD"])
    try:
        raise KeyError(os.environ["WANDB_API_KEY"])
    except KeyError as error:
        logging.getLogger("judge").exception("cannot ask")
        thread = threading.Thread(target=reward, args=([],))
        if reward.calls == 2:
            thread.start()
            thread.join()
        environment = dict(os.environ)
        raise RuntimeError(f"no answer from the judge, asked with {environment} and "
                           f"{json.dumps(environment)}") from error
reward.calls = 0
"""


def written_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def holding(key: str, written: dict[Path, bytes]) -> list[str]:
    spelled = {key, repr(key)[1:-1], json.dumps(key)[1:-1]}
    return [p.name for p, text in written.items() if any(k.encode() in text for k in spelled)]


def test_a_traceback_with_the_whole_environment_in_it_holds_no_key(
    tmp_path: Path, tiny_dir: Path
) -> None:
    keys = {**KEYS, "DATABASE_PASSWORD": 'it\'s \\ a "planted" päss'}
    (tmp_path / "leaky.py").write_text(LEAKY)
    words = sft(tmp_path, tiny_dir, "--reward_model", "leaky:reward", "--max_steps", "4",
                rows=[{"prompt": f"say {sign}"} for sign in "abcdefgh"])  # fmt: skip
    words[words.index("--report_to") + 1] = "wandb"
    words += ["--max_completion_length", "4", "--steps_per_generation", "1", "--save_steps", "1"]
    words += ["--num_ppo_epochs", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "alignment", "ppo", *words], capture_output=True, check=False,
        env={**os.environ, **keys, "PYTHONPATH": f"{REPOSITORY}", "WANDB_MODE": "offline"},
        cwd=tmp_path,
    )  # fmt: skip
    told = done.stderr.decode()
    assert done.returncode == 1, told
    assert "Traceback (most recent call last)" in told
    assert "RuntimeError: no answer from the judge, asked with {" in told
    assert told.count("<redacted>") > 10
    assert told.count("Exception in thread") <= 1
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["error"].startswith("RuntimeError: no answer from the judge")
    written = written_below(tmp_path / "out")
    assert any(path.suffix == ".wandb" for path in written)
    assert any(path.name == "metrics.jsonl" for path in written)
    written |= {Path("stdout"): done.stdout, Path("stderr"): done.stderr}
    for name, key in keys.items():
        assert not holding(key, written), name


def test_of_several_processes_each_line_of_a_traceback_names_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no answer\nfrom the judge")

    monkeypatch.setattr(run, "run_stage", fail)
    monkeypatch.setattr(run, "guard_output", lambda: None)  # it would hold for the tests after
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        run.main("sft", [])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "[rank1]: Traceback (most recent call last):"
    assert lines[-2:] == ["[rank1]: RuntimeError: no answer", "[rank1]: from the judge"]


def test_a_launcher_that_repeats_its_command_line_repeats_no_key(
    tmp_path: Path, tiny_dir: Path
) -> None:
    words = sft(tmp_path, tiny_dir, "--learning_rate", "1e39", "--max_steps", "1")
    words += ["--accelerate", "single_gpu", "--hub_token", FLAG]
    done = subprocess.run(
        [sys.executable, "-m", "alignment", "sft", *words], capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, cwd=tmp_path,
    )  # fmt: skip
    told = done.stderr.decode()
    assert done.returncode == 1, told
    assert FLAG not in told + done.stdout.decode()


def test_what_would_run_is_printed_without_keys(
    tmp_path: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = sft(tmp_path, tiny_dir, "--hub_token", FLAG, "--dry-run")
    run_stage("sft", words)
    data = tmp_path / "data.jsonl"
    (tmp_path / "a.yaml").write_text(f"train_data: {data}\nmodel_name_or_path: {tiny_dir}\n")
    (tmp_path / "p.yaml").write_text(
        f"output_dir: {tmp_path}/runs\n"
        f"stages: {{sft: {{config: a.yaml, set: {{hub_token: {FLAG}}}}}}}\n"
    )
    (plan,) = plan_pipeline(read_pipeline(tmp_path / "p.yaml"))
    assert "--hub_token '<redacted>'" in plan.pasteable
    assert FLAG not in capsys.readouterr().out + plan.pasteable
    assert FLAG in plan.argv, "the stage itself is given it"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pw@host:80/score", "http://<redacted>@host:80/score"),
        ("https://token@host/a@b", "https://<redacted>@host/a@b"),
        ("http://h/s?api_key=abc&n=2#x", "http://h/s?api_key=<redacted>&n=2#x"),
        ("http://h/s?n=2&token=a%20b", "http://h/s?n=2&token=<redacted>"),
        ("see http://h/?X-Amz-Signature=ab, then", "see http://h/?X-Amz-Signature=<redacted> then"),
        ("http://h/s?key=a b=c", "http://h/s?key=<redacted> b=c"),
        ("http://host/score?model=rm&eos_token=x", "http://host/score?model=rm&eos_token=x"),
        ("a@b.c ?key=1", "a@b.c ?key=1"),
    ],
)
def test_secrets_of_urls_are_redacted(text: str, shown: str) -> None:
    assert redact_text(text) == shown
    assert redact("reward_model", [text]) == [shown]
    assert redact_words(["--reward_model", text]) == ["--reward_model", shown]


def test_urls_are_redacted_in_linear_time() -> None:
    for text in ("http://" + "a" * 10**6, "://" * 300_000, "http://h?" + "a" * 10**6):
        began = time.monotonic()
        redact_text(text)
        assert time.monotonic() - began < 1


def test_a_url_with_secrets_is_the_same_run_and_is_shown_nowhere(tmp_path: Path) -> None:
    argv = ["--output_dir", str(tmp_path), "--reward_model", "http://me:hunter2@h/s?api_key=s3cret"]
    settings = resolve("ppo", argv)
    assert settings.values["reward_model"] == ["http://me:hunter2@h/s?api_key=s3cret"]
    assert "hunter2" not in describe(settings)
    assert "s3cret" not in describe(settings)
    record = new_run(
        "ppo", settings=settings.values, sources=settings.sources, inputs={}, parents={}
    )
    record.write(tmp_path)
    written = (tmp_path / "run.json").read_text(encoding="utf-8")
    assert "<redacted>@h/s?api_key=<redacted>" in written
    assert "hunter2" not in written
    assert "s3cret" not in written
    assert not list(changes_since(record, settings=settings, inputs={}, parents={}))


def test_a_token_of_each_kind_is_in_no_setting_record_metric_config_or_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, token in TOKENS.items():
        argv = ["--output_dir", str(tmp_path), "--reward_model", f"http://h/{token}"]
        monkeypatch.setattr(sys, "argv", ["align", "ppo", *argv])
        settings = resolve("ppo", argv)
        record = new_run(
            "sft", settings=settings.values, sources=settings.sources, inputs={}, parents={}
        )
        record.write(tmp_path)
        told = [describe(settings), json.dumps(lineage(record))]
        told.append((tmp_path / "run.json").read_text(encoding="utf-8"))
        FileTracker(tmp_path).log({"answer": token}, step=1)
        told.append((tmp_path / "metrics.jsonl").read_text(encoding="utf-8"))
        monkeypatch.setattr(run, "guard_output", lambda: None)
        with pytest.raises(SystemExit):
            run.main("sft", ["--output_dir", str(tmp_path), "--no-such-key", token])
        told.append(capsys.readouterr().err)
        with pytest.raises(SystemExit):
            _end_with(ConfigError(f"cannot open http://h/{token}", f"see {token}"), monkeypatch)
        told.append(capsys.readouterr().err)
        for text in told:
            shown = token in text or json.dumps(token)[1:-1] in text
            assert not shown, (kind, text[-300:])
        assert all("<redacted>" in told[number] for number in (0, 1, 2, 3, 5)), kind


def _end_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(**_: str) -> None:
        raise error

    monkeypatch.setattr(cli, "guard_output", lambda: None)
    monkeypatch.setattr(cli, "main", raising)
    cli.entry_point()


def test_texts_and_command_lines_are_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "correct-horse")
    assert redact_text("sent correct-horse") == "sent <redacted>"
    assert redact_text("Authorization: Bearer abcdefgh.ijk") == "Authorization: Bearer <redacted>"
    assert redact_text("AKIAABCDEFGHIJKLMNOP now") == "<redacted> now"
    assert redact_text("beta 0.1") == "beta 0.1"
    assert redact("eos_token", "<|im_end|>") == "<|im_end|>", "a word, not a key"
    nested = {"revision": "main", "token": "abc", "urls": ["http://correct-horse@here"]}
    found = redact("model_init_kwargs", nested)
    assert found == {"revision": "main", "token": "<redacted>", "urls": ["http://<redacted>@here"]}
    words = ["--hub_token", "abc", "--beta", "0.1", "--hub-token=abc"]
    assert redact_words(words) == ["--hub_token", "<redacted>", "--beta", "0.1",
                                   "--hub-token=<redacted>"]  # fmt: skip


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_nothing_unsafe_is_called(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [str(getattr(node, "module", ""))]
            assert not {"pickle", "dill", "marshal", "shelve"} & set(names)
        if not isinstance(node, ast.Call):
            continue
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert given.get("trust_remote_code") != "True"
        assert given.get("shell") != "True"
        called = ast.unparse(node.func)
        assert called not in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "os.system")
        assert called != "torch.load" or given.get("weights_only") == "True"


#: A key of a pipeline file and what it holds, in YAML; the first line that is told, behind FILE:.
NAMES = [
    ("stages", '{"../up": {stage: sft, config: a.yaml}}',
     "3: ../up: a name cannot leave the folder"),
    ("stages", '{/tmp/far: {stage: sft, config: a.yaml}}',
     "3: /tmp/far: a name cannot leave the folder"),
    ("stages", '{"..": {stage: sft, config: a.yaml}}', "3: ..: a name cannot leave the folder"),
    ("stages", '{a/b: {stage: sft, config: a.yaml}}', "3: a/b: a name cannot leave the folder"),
    ("stages", r'{"a\0b": {stage: sft, config: a.yaml}}',
     "3: a\0b: a name cannot leave the folder"),
    ("stages", r'{"C:\\far": {stage: sft, config: a.yaml}}',
     "3: C:\\far: a name cannot leave the folder"),
    ("stages", r'{sft: {config: "a\0b"}}', "3: sft: config: contains a NUL byte"),
    ("name", "../up", "2: name: '../up' would leave its folder"),
    ("name", "/tmp/far", "2: name: '/tmp/far' would leave its folder"),
    ("name", r'"a\0b"', "2: name: contains a NUL byte"),
    ("name", r'"C:\\far"', r"2: name: 'C:\\far' would leave its folder"),
    ("output_dir", r'"a\0b"', "1: output_dir: contains a NUL byte"),
]  # fmt: skip


def test_names_in_a_pipeline_cannot_leave_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from alignment.cli import entry_point

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("seed: 1\n")
    for key, value, message in NAMES:
        good = {"output_dir": "runs", "name": "demo", "stages": "{sft: {config: a.yaml}}"}
        good[key] = value
        Path("p.yaml").write_text("".join(f"{key}: {value}\n" for key, value in good.items()))
        monkeypatch.setattr(sys, "argv", ["align", "run", "p.yaml"])
        with pytest.raises(SystemExit) as end:
            entry_point()
        told = capsys.readouterr().err.split("\n")
        assert (end.value.code, told[0]) == (2, f"error: p.yaml:{message}")
        assert len(told) <= 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.yaml", "p.yaml"]


@pytest.mark.parametrize("flag", ["run_name", "hub_model_id"])
def test_names_of_a_stage_of_a_pipeline_stay_too(flag: str, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "d.jsonl", [{"prompt": "a", "completion": "b"}])
    (tmp_path / "a.yaml").write_text(f"train_data: {data}\n")
    file = tmp_path / "p.yaml"
    file.write_text(f"output_dir: {tmp_path}/runs\nstages: {{sft: {{config: a.yaml}}}}\n")
    pipeline = read_pipeline(file, [f"sft.{flag}=../up"])
    with pytest.raises(ConfigError, match=f"{flag}: '../up' would leave its folder"):
        plan_pipeline(pipeline)


@pytest.mark.parametrize("module", ["alignment.cli", "alignment.training.run", "data_tools.cli"])
def test_telemetry_is_off_unless_it_is_asked_for(module: str) -> None:
    program = (
        f"import {module}\n"
        "from huggingface_hub import constants\nprint(constants.HF_HUB_DISABLE_TELEMETRY)\n"
    )
    ours = ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_OFFLINE")
    clean = {key: value for key, value in os.environ.items() if key not in ours}
    for extra, expected in (({}, "True"), ({"HF_HUB_DISABLE_TELEMETRY": "0"}, "False")):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True,
            env={**clean, "DO_NOT_TRACK": "0", "PYTHONPATH": str(REPOSITORY), **extra},
        )  # fmt: skip
        assert done.stdout.strip() == expected
