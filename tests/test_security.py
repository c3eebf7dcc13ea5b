"""Planted keys turn up nowhere; nothing unsafe is called; no telemetry unless it is asked for."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY
from test_reliability import sft

from alignment.pipeline_file import read_pipeline
from alignment.secrets import redact_text, redact_words

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


def test_texts_and_command_lines_are_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "correct-horse")
    assert redact_text("sent correct-horse") == "sent <redacted>"
    assert redact_text("Authorization: Bearer abcdefgh.ijk") == "Authorization: Bearer <redacted>"
    assert redact_text("AKIAABCDEFGHIJKLMNOP now") == "<redacted> now"
    assert redact_text("beta 0.1") == "beta 0.1"
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


@pytest.mark.parametrize("name", ["../up", "/tmp/far", "..", "a/b"])
def test_a_step_of_a_pipeline_cannot_leave_its_folder(name: str, tmp_path: Path) -> None:
    from alignment.errors import ConfigError

    file = tmp_path / "p.yaml"
    file.write_text(f"output_dir: runs\nstages:\n  {name}: {{stage: sft, config: a.yaml}}\n")
    with pytest.raises(ConfigError, match="cannot leave the folder"):
        read_pipeline(file)


@pytest.mark.parametrize("module", ["alignment.cli", "alignment.stages", "data_tools.cli"])
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
