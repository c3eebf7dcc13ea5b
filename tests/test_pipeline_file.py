"""A pipeline file is checked before anything runs."""

from pathlib import Path

import pytest

from alignment.errors import AlignError, ConfigError
from alignment.pipeline.file import Pipeline, read_pipeline
from alignment.pipeline.launch import command, take_launch_words


def pipeline(folder: Path, stages: str, *overrides: str) -> Pipeline:
    for stage in ("sft", "rm", "ppo"):
        (folder / f"{stage}.yaml").write_text("seed: 1\n")
    path = folder / "pipeline.yaml"
    path.write_text(f"name: p\noutput_dir: out\nstages:\n{stages}", encoding="utf-8")
    return read_pipeline(path, overrides)


GOOD = """\
  sft: {config: sft.yaml}
  rm:  {config: rm.yaml, needs: {model: sft}}
  gentle: {stage: ppo, config: ppo.yaml, needs: {model: sft, reward_model: rm}, set: {beta: 0.2}}
"""


def test_steps_are_read_in_order(tmp_path: Path) -> None:
    sft, rm, gentle = pipeline(tmp_path, GOOD).steps
    assert (sft.stage, rm.stage, gentle.stage) == ("sft", "rm", "ppo")
    assert sft.recipes == (str(tmp_path / "sft.yaml"),)
    assert gentle.needs == {"model": "sft", "reward_model": "rm"}
    assert gentle.flags == ("--beta", "0.2")
    assert gentle.folder == Path("out/gentle")


def test_set_overrides_come_last(tmp_path: Path) -> None:
    steps = pipeline(tmp_path, GOOD, "gentle.beta=0.9", "sft.seed=3").steps
    assert steps[2].flags == ("--beta", "0.2", "--beta", "0.9")
    assert steps[0].flags == ("--seed", "3")


@pytest.mark.parametrize(
    ("stages", "overrides", "message", "remedy"),
    [
        ("  sfx: {config: sft.yaml}\n", (), "no stage 'sfx'", "did you mean 'sft'?"),
        ("  sft: {confi: sft.yaml}\n", (), "unknown key 'confi'", "did you mean 'config'?"),
        ("  sft: {config: no.yaml}\n", (), "no.yaml: no such file", "name a recipe"),
        ("  rm: {config: rm.yaml, needs: {model: sft}}\n  sft: {config: sft.yaml}\n", (),
         "needs model: no earlier stage 'sft'", "stages run in the order"),
        ("  sft: {config: sft.yaml, needs: {mode: pt}}\n", (), "unknown key 'mode'",
         "did you mean"),
        ("  sft: [sft.yaml]\n", (), "not a mapping", "write sft:"),
        ("  ../sft: {stage: sft}\n", (), "cannot leave the folder", "use a plain word"),
        (GOOD, ("ppo.beta",), "not STAGE.KEY=VALUE", "for example"),
        (GOOD, ("gentl.beta=1",), "no stage 'gentl'", "did you mean 'gentle'?"),
    ],
)  # fmt: skip
def test_mistakes_are_reported(
    tmp_path: Path, stages: str, overrides: tuple[str, ...], message: str, remedy: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline(tmp_path, stages, *overrides)
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def test_launch_words_go_to_accelerate() -> None:
    launcher, rest = take_launch_words(
        ["a.yaml", "--nproc", "2", "--beta", "1", "--accelerate=zero2"]
    )
    assert rest == ["a.yaml", "--beta", "1"]
    assert launcher[:2] == ["--num_processes", "2"]
    assert launcher[launcher.index("--config_file") + 1].endswith("zero2.yaml")
    assert command("dpo", ["a.yaml"])[1:] == ["-m", "alignment", "dpo", "a.yaml"]
    assert command("dpo", ["--nproc", "2", "--hub_token", "x"])[3:] == ["dpo", "--nproc", "2"]


@pytest.mark.parametrize("words", [["--nproc", "two"], ["--nproc"], ["--accelerate", "zero9"]])
def test_wrong_launch_words_are_reported(words: list[str]) -> None:
    with pytest.raises(AlignError):
        take_launch_words(words)
