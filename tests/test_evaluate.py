"""Evaluation: intervals against known numbers; generation, KL, scores against slow references."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import REPOSITORY, write_jsonl

from alignment.errors import AlignError, ConfigError, DataError
from alignment.evaluate import NamedModel, Options, evaluate, load_evaluation, statistics
from alignment.evaluate.rules import apply_rule, load_rules
from alignment.models.folders import load_tokenizer

SEEN: list[dict[str, Any]] = []


def says_length(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
    """A rule for these tests: 1 for an even number of characters; rows marked skip do not count."""
    SEEN.append({"prompts": prompts, "completions": completions, **columns})
    return [
        None if skip else float(len(text_of(completion)) % 2 == 0)
        for completion, skip in zip(completions, columns["skip"], strict=True)
    ]


def text_of(completion: list[dict[str, str]]) -> str:
    return completion[-1]["content"]


def too_few(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    return [0.0]


def wants_gold(prompts: list[Any], completions: list[Any], gold: list[str]) -> list[float]:
    return [float(answer == right) for answer, right in zip(completions, gold, strict=True)]


# Intervals


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)],
)
def test_wilson_interval_equals_the_published_examples(
    successes: int, n: int, low: float, high: float
) -> None:
    """Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3."""
    assert statistics.wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_paired_share_interval_equals_the_published_example() -> None:
    """Newcombe 1998, Statistics in Medicine 17:2635-2650, table II, method 10: 36, 12, 2, 0."""
    ours = [1.0] * 48 + [0.0] * 2
    theirs = [1.0] * 36 + [0.0] * 12 + [1.0] * 2
    found = statistics.paired_difference(ours, theirs)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-5)


@given(st.lists(st.sampled_from([(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]), min_size=1))
def test_paired_shares_are_antisymmetric_and_inside_their_bounds(
    pairs: list[tuple[float, float]],
) -> None:
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    there, back = (
        statistics.paired_difference(ours, theirs),
        statistics.paired_difference(theirs, ours),
    )
    assert there.value == pytest.approx(-back.value)
    assert there.low == pytest.approx(-back.high)
    assert -1 - 1e-9 <= there.low <= there.value <= there.high <= 1 + 1e-9


def test_bootstrap_covers_the_true_mean_about_as_often_as_it_says() -> None:
    import numpy as np

    generator = np.random.default_rng(0)
    draws = generator.exponential(size=(300, 100))
    inside = [(e := statistics.mean(row)).low <= 1 <= e.high for row in draws.tolist()]
    assert 0.88 <= np.mean(inside) <= 0.98


def test_ratio_weighs_by_the_denominator_and_ties_count_a_half() -> None:
    assert statistics.ratio([1.0, 9.0], [1.0, 3.0]).value == 2.5
    assert statistics.win_rate([1.0, 2.0, 0.0, 5.0], [1.0, 1.0, 1.0, 1.0]).value == 0.625
    assert statistics.mean([3.0]).low is None


#: 40 skewed numbers, and their bootstrap of the mean: exact by the normal approximation to 3 %.
SKEWED = [math.exp(n / 10) for n in range(40)]


def test_bootstrap_of_a_mean_is_as_wide_as_its_standard_error_says() -> None:
    """95 % is 1.96 standard errors to each side; an interval of 90 % would have 1.64."""
    n, centre = len(SKEWED), sum(SKEWED) / len(SKEWED)
    error = math.sqrt(sum((x - centre) ** 2 for x in SKEWED) / n / n)
    found = statistics.mean(SKEWED)
    assert (found.value, found.n) == (pytest.approx(centre), n)
    assert (found.high - found.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.05)
    assert centre - found.low < found.high - centre  # skewed to the right
    # the same numbers, the same interval, and a resampled value stays among them
    assert statistics.mean(SKEWED) == found
    assert min(SKEWED) < found.low < centre < found.high < max(SKEWED)


def test_bootstrap_quantiles_are_those_of_a_binomial() -> None:
    """The mean of 100 resampled zeros and ones is a binomial share with known quantiles."""
    found = statistics.mean([0.0, 2.0] * 50)
    assert (found.low / 2, found.high / 2) == pytest.approx((0.40, 0.60), abs=0.011)


def test_bootstrap_resamples_numerator_and_denominator_together() -> None:
    found = statistics.ratio([2.0, 4.0, 60.0], [1.0, 2.0, 30.0])
    assert (found.value, found.low, found.high, found.n) == (2.0, 2.0, 2.0, 3)
    # two pairs are both drawn half of the time; else one of them twice: 1/1, 5/2 or 9/3
    two = statistics.ratio([1.0, 9.0], [1.0, 3.0])
    assert (two.value, two.low, two.high, two.n) == (2.5, 1.0, 3.0, 2)
    one = statistics.ratio([6.0], [4.0])
    assert (one.value, one.low, one.high, one.n) == (1.5, None, None, 1)


def test_the_bootstrap_is_the_same_in_one_part_and_in_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import numpy as np

    top, bottom = np.asarray(SKEWED), np.ones(len(SKEWED))
    whole = statistics._resampled_ratios(top, bottom)
    assert whole.shape == (2000,)
    assert len(set(whole.tolist())) > 1900
    for at_once in (1, 40 * 300):  # a row each time, and a last part that is shorter
        monkeypatch.setattr(statistics, "_DRAWS_AT_ONCE", at_once)
        np.testing.assert_allclose(statistics._resampled_ratios(top, bottom), whole)


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([1.0, 0.5, 0.0, 1.0], (0.625, 0.2194, 0.9081, 4)),
        ([1.0] * 20, (1.0, 0.8389, 1.0, 20)),
        ([0.0] * 20, (0.0, 0.0, 0.1611, 20)),
    ],
)
def test_a_share_has_its_wilson_interval(
    outcomes: list[float], expected: tuple[float, float, float, int]
) -> None:
    found = statistics.share(outcomes)
    assert (found.value, found.low, found.high, found.n) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((30, 5, 5, 10), 250 / 525),  # 300 - 25, less half of the 50
        ((12, 4, 6, 9), (108 - 24 - 15.5) / math.sqrt(16 * 15 * 18 * 13)),
        ((36, 12, 2, 0), -24 / math.sqrt(48 * 2 * 38 * 12)),  # negative: not corrected
        ((5, 4, 4, 5), 0.0),  # 9 of 18: the correction takes it all
        ((5, 4, 5, 6), 0.0),  # 10 less 10
        ((0, 0, 3, 4), 0.0),
        ((3, 4, 0, 0), 0.0),
        ((0, 3, 0, 4), 0.0),
        ((3, 0, 4, 0), 0.0),
    ],
)
def test_phi_is_corrected_for_continuity_as_in_method_10(
    counts: tuple[int, int, int, int], expected: float
) -> None:
    assert statistics._phi(*counts) == pytest.approx(expected, abs=1e-12)


def test_paired_shares_square_and_add_their_correlated_distances() -> None:
    """30 both right, 5 and 9 one alone, 6 none: by the formula of method 10 from its parts."""
    ours = [1.0] * 35 + [0.0] * 15
    theirs = [1.0] * 30 + [0.0] * 5 + [1.0] * 9 + [0.0] * 6
    (low1, high1), (low2, high2) = (statistics.wilson_interval(x, 50) for x in (35, 39))
    phi = (30 * 6 - 5 * 9 - 25) / math.sqrt(35 * 15 * 39 * 11)
    a, b, c, d = 0.7 - low1, high2 - 0.78, high1 - 0.7, 0.78 - low2
    below = math.sqrt(a * a - 2 * phi * a * b + b * b)
    above = math.sqrt(c * c - 2 * phi * c * d + d * d)
    found = statistics.paired_difference(ours, theirs)
    assert (found.value, found.low, found.high, found.n) == pytest.approx(
        (-0.08, -0.08 - below, -0.08 + above, 50), abs=1e-12
    )


def test_paired_values_other_than_right_and_wrong_are_bootstrapped() -> None:
    found = statistics.paired_difference([1.0, 0.5, 3.0], [0.0, 0.0, 1.0])
    assert found == statistics.mean([1.0, 0.5, 2.0])
    with pytest.raises(ValueError, match="zip"):
        statistics.paired_difference([1.0, 0.5], [1.0])
    with pytest.raises(ValueError, match="zip"):
        statistics.paired_difference([1.0, 0.0], [1.0])
    with pytest.raises(ValueError, match="zip"):
        statistics.win_rate([1.0, 0.0], [1.0])


def test_a_win_rate_counts_wins_and_half_of_the_ties() -> None:
    found = statistics.win_rate([2.0, 1.0, 0.0, 0.0, 3.0], [1.0, 1.0, 5.0, -1.0, 2.5])
    assert found == statistics.share([1.0, 0.5, 0.0, 1.0, 1.0])


# Rules


def test_a_rule_file_is_loaded_under_the_name_it_is_given(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def right(prompts, completions):\n    return [1 for _ in prompts]\n")
    (rule,) = load_rules([f"exact={file}:right"])
    assert rule.name == "exact"
    assert apply_rule(rule, ["a", "b"], ["x", "y"], columns={"other": [0, 0]}) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_colon", "no_colon: a hub name, but a rule must be a function"),
        ("no_such_module_here:f", "no module 'no_such_module_here'"),
        ("json:no_such_function", "no function 'no_such_function' in "),
        ("missing/file.py:f", "no file missing/file.py"),
    ],
)
def test_a_bad_rule_is_named(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_rules([spec])


# Mistakes, told before torch is imported


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows = [
        {"prompt": "Say hello." + " Please." * (i % 4), "gold": f"{i}", "skip": i == 3}
        for i in range(11)
    ]
    return write_jsonl(tmp_path / "prompts.jsonl", rows)


def _mistakes(tiny: Path, folder: Path) -> dict[str, tuple[dict[str, Any], str]]:
    bare, empty = folder / "bare", folder / "empty.jsonl"
    (bare / "checkpoint-20").mkdir(parents=True)
    empty.write_text("")
    orphan = folder / "orphan"
    orphan.mkdir()
    (orphan / "adapter_model.safetensors").touch()
    (orphan / "adapter_config.json").write_text('{"base_model_name_or_path": "/no/base"}')
    used = folder / "used"
    used.mkdir()
    (used / "eval.json").write_text("{}")
    here = __name__
    return {
        "missing folder": (
            {"models": [NamedModel("a", str(folder / "none"))]},
            "none: no such folder",
        ),
        "no model in it": ({"models": [NamedModel("a", str(bare))]}, "(?s)no model.*checkpoint-20"),
        "no base": ({"models": [NamedModel("a", str(orphan))]}, "base of the adapter .*no such"),
        "two of a name": ({"models": [NamedModel("a", str(tiny))] * 2}, "two are called 'a'"),
        "strange reference": ({"reference": "b"}, "'b' is none of the models"),
        "no reward model": ({"reward_model": folder / "none"}, "reward_model: .*no such folder"),
        "no prompts": ({"prompts": folder / "none.jsonl"}, "no such file"),
        "empty prompts": ({"prompts": empty}, "empty.jsonl"),
        "bad rule": ({"rules": ["nothing"]}, "nothing: a hub name, but a rule must be a function"),
        "wrong count": ({"rules": [f"{here}:too_few"]}, "returned 1 for 2 completions"),
        "no such column": ({"rules": [f"{here}:wants_gold"], "prompts": None}, "column 'gold'"),
        "used output": ({"output_dir": used}, "holds an evaluation"),
        "no batch": ({"options": Options(batch_size=0)}, "batch_size: 0 is below 1"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "missing folder",
        "no model in it",
        "no base",
        "two of a name",
        "strange reference",
        "no reward model",
        "no prompts",
        "empty prompts",
        "bad rule",
        "wrong count",
        "no such column",
        "used output",
        "no batch",
    ],
)
def test_a_mistake_is_reported_plainly(
    case: str, tiny_dir: Path, tmp_path: Path, prompts: Path
) -> None:
    plain = write_jsonl(tmp_path / "plain.jsonl", [{"prompt": "Say hello."}])
    changes, message = _mistakes(tiny_dir, tmp_path)[case]
    given = {
        "models": [NamedModel("a", str(tiny_dir))],
        "prompts": prompts,
        "output_dir": tmp_path / "out",
        **changes,
    }
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        evaluate(given.pop("models"), **{**given, "prompts": given["prompts"] or plain})
    assert isinstance(caught.value, AlignError)
    assert not (tmp_path / "out").exists()


def test_mistakes_are_found_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from alignment.evaluate import *\n"
        "model = NamedModel('a', 'no/such/folder')\n"
        "try: evaluate([model], prompts=Path('p'), output_dir=Path('o'))\n"
        "except Exception as e: print(type(e).__name__)\n"
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["ConfigError", "[]"]


def test_a_prompt_too_long_for_the_model_is_named(tiny_dir: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "Say hello."}, {"prompt": "Say hello. " * 200}]
    with pytest.raises(DataError, match=r"prompt 2: .* exceed the maximum length of .*, 512"):
        evaluate(
            [NamedModel("a", str(tiny_dir))],
            prompts=write_jsonl(tmp_path / "long.jsonl", rows),
            output_dir=tmp_path / "out",
        )


# Generation, KL, rewards


@pytest.fixture(scope="module")
def moved_dir(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, its weights moved at random, far enough to answer otherwise."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("moved") / "model"
    shutil.copytree(tiny_dir, folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_dir)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def _policy(folder: Path) -> Any:
    from alignment.evaluate.generation import load_policy

    return load_policy(folder.name, str(folder), load_tokenizer(str(folder)))


def _sample(policy: Any, texts: list[str], **changes: Any) -> list[Any]:
    from alignment.evaluate.generation import Sampling, encode_prompts, generate

    path = policy.model.name_or_path
    ids, _ = encode_prompts(policy.tokenizer, texts, name="tiny", path=path)
    settings = {"max_new_tokens": 24, "temperature": 0.0, "batch_size": 8, "seed": 0, **changes}
    return generate(policy, ids, Sampling(**settings))


TEXTS = ["Hi", "What is two plus two?", "二加二等于几？请说你好。", "Say", "a b c d e f g h i j k"]


def test_greedy_answers_do_not_depend_on_the_batch(moved_dir: Path) -> None:
    policy = _policy(moved_dir)
    alone, together = _sample(policy, TEXTS, batch_size=1), _sample(policy, TEXTS)
    assert alone == together
    assert len({tuple(one.ids) for one in alone}) > 1  # else the test would show nothing


def test_a_greedy_answer_is_the_argmax_of_plain_forward_passes(moved_dir: Path) -> None:
    import torch

    policy = _policy(moved_dir)
    for one in _sample(policy, TEXTS[:3]):
        ids = list(one.prompt_ids)
        for token in one.ids:
            logits = policy.model(torch.tensor([ids])).logits[0, -1]
            assert int(logits.argmax()) == token
            ids.append(token)


def test_an_answer_ends_at_eos_and_says_so(tiny_dir: Path) -> None:
    policy = _policy(tiny_dir)
    drawn = _sample(policy, TEXTS * 40, temperature=1.0, max_new_tokens=64, batch_size=50)
    (eos,) = policy.eos_ids
    ended = [one for one in drawn if one.eos]
    assert 0 < len(ended) < len(drawn)
    assert all(one.ids[-1] == eos and one.ids.count(eos) == 1 for one in ended)
    assert all(len(one.ids) == 64 and eos not in one.ids for one in drawn if not one.eos)


def _slow_kl(policy: Any, reference: Any, sample: Any) -> float:
    """One position at a time, no padding, in float64, from the definition."""
    import torch

    total, ids = 0.0, list(sample.prompt_ids)
    for token in sample.ids:
        with torch.no_grad():
            ours = policy.model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
            theirs = reference.model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        total += float((ours * (ours / theirs).log()).sum())
        ids.append(token)
    return total


def test_kl_is_zero_to_itself_and_equals_a_slow_reference(tiny_dir: Path, moved_dir: Path) -> None:
    from alignment.evaluate.divergence import sequence_kl

    reference, policy = _policy(tiny_dir), _policy(moved_dir)
    samples = _sample(policy, TEXTS, temperature=1.0)
    assert sequence_kl(policy, policy, samples, batch_size=2) == [0.0] * len(TEXTS)
    assert sequence_kl(policy, _policy(moved_dir), samples, batch_size=2) == [0.0] * len(TEXTS)
    found = sequence_kl(policy, reference, samples, batch_size=3)
    slow = [_slow_kl(policy, reference, sample) for sample in samples]
    assert min(slow) > 0.1
    assert found == pytest.approx(slow, rel=1e-3)


def test_kl_agrees_with_the_log_ratio_of_many_samples(tiny_dir: Path, moved_dir: Path) -> None:
    """The exact inner sum and k1 estimate one quantity; k1 needs more samples for it."""
    import numpy as np
    import torch

    from alignment.evaluate.divergence import sequence_kl

    reference, policy = _policy(tiny_dir), _policy(moved_dir)
    samples = _sample(policy, ["Say hello."] * 400, temperature=1.0, batch_size=100)
    kl = np.array(sequence_kl(policy, reference, samples, batch_size=100))
    k1 = []
    for sample in samples:
        ids, count = torch.tensor([sample.prompt_ids + sample.ids]), len(sample.ids)
        with torch.no_grad():
            logps = [
                m.model(ids).logits[0, -count - 1 : -1].log_softmax(-1) for m in (policy, reference)
            ]
        chosen = [lp.gather(-1, ids[0, -count:, None]).sum() for lp in logps]
        k1.append(float(chosen[0] - chosen[1]))
    error = math.sqrt(kl.var() / len(kl) + np.var(k1) / len(k1))
    assert abs(kl.mean() - np.mean(k1)) < 4 * error
    assert kl.var() < np.var(k1)


@pytest.fixture(scope="module")
def reward_dirs(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """A whole reward model and a LoRA one with a trained head, and the latter in memory."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    root = tmp_path_factory.mktemp("rewards")
    whole, adapter = root / "whole", root / "adapter"
    for folder in (whole, adapter):
        folder.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(tiny_dir / name, folder)
    torch.manual_seed(2)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_dir, num_labels=1)
    model.save_pretrained(whole)
    lora = LoraConfig(task_type="SEQ_CLS", r=2, modules_to_save=["score"], init_lora_weights=False)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_dir, num_labels=1)
    wrapped = get_peft_model(model, lora).eval()
    wrapped.save_pretrained(adapter)
    return whole, adapter, wrapped


def test_rewards_of_an_adapter_come_from_its_own_head_whatever_the_batch(
    reward_dirs: tuple[Path, Path, Any],
) -> None:
    import torch

    from alignment.ppo.scorer import load_scorer

    tokenizer = load_tokenizer(str(reward_dirs[1]))
    scorer = load_scorer(str(reward_dirs[1]), policy_tokenizer=tokenizer)
    pairs = [([{"role": "user", "content": text}], text[::-1]) for text in TEXTS]
    found = scorer(
        prompts=[prompt for prompt, _ in pairs],
        completions=[[{"role": "assistant", "content": answer}] for _, answer in pairs],
    )
    slow = []
    for prompt, answer in pairs:
        messages = [*prompt, {"role": "assistant", "content": answer}]
        ids = scorer.tokenizer.apply_chat_template(messages, return_dict=False)
        with torch.no_grad():
            slow.append(float(reward_dirs[2](input_ids=torch.tensor([ids])).logits[0, 0]))
    assert found == pytest.approx(slow, abs=1e-5)
    assert len(set(found)) > 1


def test_an_adapter_without_a_tokenizer_has_its_bases(tmp_path: Path, tiny_dir: Path) -> None:
    config = {"base_model_name_or_path": str(tiny_dir), "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert load_tokenizer(str(tmp_path)).get_vocab() == load_tokenizer(str(tiny_dir)).get_vocab()
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ConfigError, match="no tokenizer"):
        load_tokenizer(str(tmp_path))


def test_a_language_model_is_no_reward_model(tiny_dir: Path) -> None:
    from alignment.ppo.scorer import load_scorer

    with pytest.raises(ConfigError, match="LlamaForCausalLM is not a sequence classifier"):
        load_scorer(str(tiny_dir), policy_tokenizer=load_tokenizer(str(tiny_dir)))


# The whole


def test_a_whole_evaluation(
    tiny_dir: Path,
    moved_dir: Path,
    reward_dirs: tuple[Path, Path, Any],
    prompts: Path,
    tmp_path: Path,
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    adapter = tmp_path / "adapter"
    base = AutoModelForCausalLM.from_pretrained(tiny_dir)
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False)
    get_peft_model(base, lora).save_pretrained(adapter)
    SEEN.clear()
    found = evaluate(
        [
            NamedModel("moved", str(moved_dir)),
            NamedModel("lora", str(adapter)),
            NamedModel("start", str(tiny_dir)),
            NamedModel("same", str(tiny_dir)),
        ],
        prompts=prompts,
        output_dir=tmp_path / "out",
        rules=[f"even={__name__}:says_length"],
        reward_model=reward_dirs[0],
        reference="start",
        options=Options(max_new_tokens=12, batch_size=4, limit=9),
    )
    assert load_evaluation(tmp_path / "out") == found
    start, same = found.summary("start"), found.summary("same")
    assert (start.kl, start.win_rate, start.rule_gains) == (None, None, {})
    assert (same.kl.value, same.kl.high, same.win_rate.value) == (0.0, 0.0, 0.5)
    assert same.rule_gains["even"].value == same.reward_gain.value == 0.0
    for name in ("moved", "lora"):
        assert found.summary(name).kl.low > 0
    assert found.summary("lora").base == str(tiny_dir)

    _, *calls = SEEN  # the first is the trial on empty answers
    assert len(calls) == 4
    assert calls[0]["prompts"][1] == [{"role": "user", "content": "Say hello. Please."}]
    assert calls[0]["gold"] == [str(i) for i in range(9)]
    assert calls[0]["skip"] == [i == 3 for i in range(9)]
    _check_numbers_against_rows(found, tmp_path / "out" / "answers.jsonl")


def _check_numbers_against_rows(found: Any, answers_file: Path) -> None:
    rows = [json.loads(line) for line in answers_file.read_text().splitlines()]
    assert len(rows) == found.prompts["rows"] == 9
    for summary in found.models:
        answers = [row["answers"][summary.name] for row in rows]
        scores = [a["scores"]["even"] for a in answers]
        assert scores[3] is None
        assert scores[:3] + scores[4:] == [
            float(len(a["text"]) % 2 == 0) for i, a in enumerate(answers) if i != 3
        ]
        counted = [score for score in scores if score is not None]
        assert summary.rules["even"].n == 8
        assert summary.rules["even"].value == pytest.approx(sum(counted) / 8)
        assert summary.reward.value == pytest.approx(sum(a["reward"] for a in answers) / 9)
        assert summary.length.value == pytest.approx(sum(a["tokens"] for a in answers) / 9)


def test_without_a_reference_nothing_is_compared(
    tiny_dir: Path, prompts: Path, tmp_path: Path
) -> None:
    found = evaluate(
        [NamedModel("a", str(tiny_dir)), NamedModel("b", str(tiny_dir))],
        prompts=prompts,
        output_dir=tmp_path / "out",
        options=Options(max_new_tokens=3, limit=2, as_chat=False),
    )
    assert all(m.kl is None and m.reward is None and not m.rules for m in found.models)
    assert found.rows[0].prompt == "Say hello."
