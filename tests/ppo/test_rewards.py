"""What scores a response: reward models, functions and HTTP scorers, and what is refused."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from alignment.errors import ConfigError, DataError
from alignment.ppo import reward_http, rewards
from alignment.ppo.reward_functions import FunctionReward, ScoreStats
from alignment.ppo.reward_models import ModelReward
from alignment.ppo.rewards import load_rewards, read_stats
from alignment.runs.files import RECORD
from alignment.runs.record import Run

CHAT = [{"role": "user", "content": "Say hello."}]
ANSWER = [{"role": "assistant", "content": "Hello, how are you?"}]


@pytest.fixture
def tokenizer(tiny_dir: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture
def load(tokenizer: PreTrainedTokenizerBase) -> Callable[..., Any]:
    def load(*specs: str | Path, **keys: Any) -> Any:
        rewards, _ = load_rewards([str(s) for s in specs], policy_tokenizer=tokenizer, **keys)
        return rewards[0] if len(rewards) == 1 else rewards

    return load


def save_classifier(tiny_dir: Path, folder: Path, *, num_labels: int = 1) -> Path:
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_dir, num_labels=num_labels)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_dir).save_pretrained(folder)
    return folder


@pytest.fixture
def reward_dir(tiny_dir: Path, tmp_path: Path) -> Path:
    return save_classifier(tiny_dir, tmp_path / "rm")


def plain_score(folder: Path, ids: list[int]) -> float:
    """One row, no padding: the head on the last token's state."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        return float(model.score(hidden))


def chat_ids(tokenizer: Any, messages: list[Any]) -> list[int]:
    return list(
        tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    )


def test_a_reward_model_scores_the_last_token_of_each_row(
    reward_dir: Path, load: Callable[..., Any], tokenizer: PreTrainedTokenizerBase
) -> None:
    reward = load(reward_dir)
    short = [{"role": "assistant", "content": "No."}]
    scores = reward(prompts=[CHAT, CHAT], completions=[ANSWER, short])
    expected = [plain_score(reward_dir, chat_ids(tokenizer, CHAT + x)) for x in (ANSWER, short)]
    assert scores == pytest.approx(expected, abs=1e-5)
    assert scores[0] != pytest.approx(scores[1], abs=1e-4)


def test_plain_text_ends_with_the_eos_that_the_reward_model_was_trained_with(
    reward_dir: Path, load: Callable[..., Any], tokenizer: Any
) -> None:
    (score,) = load(reward_dir)(prompts=["Say hello. "], completions=["Hello."])
    ids = tokenizer("Say hello. Hello." + tokenizer.eos_token)["input_ids"]
    assert score == pytest.approx(plain_score(reward_dir, ids), abs=1e-5)


def test_batches_of_any_size_give_the_same_scores(
    reward_dir: Path, load: Callable[..., Any]
) -> None:
    reward = load(reward_dir)
    answers = [[{"role": "assistant", "content": "hello " * n}] for n in (1, 9, 3, 7, 2)]
    one = reward(prompts=[CHAT] * 5, completions=answers)
    reward.batch_size = 2
    assert reward(prompts=[CHAT] * 5, completions=answers) == pytest.approx(one, abs=1e-5)


def test_a_reward_model_keeps_its_own_tokenizer_and_template(
    reward_dir: Path, load: Callable[..., Any], tokenizer: Any
) -> None:
    other = AutoTokenizer.from_pretrained(reward_dir)
    other.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    other.save_pretrained(reward_dir)
    reward = load(reward_dir)
    ids = other(f"[{CHAT[0]['content']}][{ANSWER[0]['content']}]")["input_ids"]
    assert ids != chat_ids(tokenizer, CHAT + ANSWER)
    (score,) = reward(prompts=[CHAT], completions=[ANSWER])
    assert score == pytest.approx(plain_score(reward_dir, ids), abs=1e-5)


def test_without_a_template_the_policys_is_used(
    reward_dir: Path, load: Callable[..., Any], tokenizer: Any
) -> None:
    for path in reward_dir.glob("chat_template*"):
        path.unlink()
    assert AutoTokenizer.from_pretrained(reward_dir).chat_template is None
    (score,) = load(reward_dir)(prompts=[CHAT], completions=[ANSWER])
    ids = chat_ids(tokenizer, CHAT + ANSWER)
    assert score == pytest.approx(plain_score(reward_dir, ids), abs=1e-5)


def save_adapter(tiny_dir: Path, folder: Path, *, with_head: bool = True) -> PeftModel:
    torch.manual_seed(2)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_dir, num_labels=1)
    config = LoraConfig(
        r=4,
        target_modules=["q_proj", "v_proj"],
        lora_dropout=0.5,  # for training alone: a score has none
        init_lora_weights=False,
        task_type="SEQ_CLS" if with_head else None,
        modules_to_save=["score"] if with_head else None,
    )
    model = get_peft_model(base, config)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_dir).save_pretrained(folder)
    return model


def test_a_lora_reward_model_brings_its_score_head(
    tiny_dir: Path, tmp_path: Path, load: Callable[..., Any], tokenizer: Any
) -> None:
    trained = save_adapter(tiny_dir, tmp_path / "rm").eval()
    ids = torch.tensor([chat_ids(tokenizer, CHAT + ANSWER)])
    with torch.no_grad():
        expected = trained(input_ids=ids).logits.item()
    (score,) = load(tmp_path / "rm")(prompts=[CHAT], completions=[ANSWER])
    assert score == pytest.approx(expected, abs=1e-5)


def test_a_lora_reward_model_without_its_score_head_is_refused(
    tiny_dir: Path, tmp_path: Path, load: Callable[..., Any]
) -> None:
    save_adapter(tiny_dir, tmp_path / "rm", with_head=False)
    with pytest.raises(ConfigError, match="without its score head"):
        load(tmp_path / "rm")


def test_two_labels_are_refused(tiny_dir: Path, tmp_path: Path, load: Callable[..., Any]) -> None:
    folder = save_classifier(tiny_dir, tmp_path / "two", num_labels=2)
    with pytest.raises(ConfigError, match="2 labels, a reward model has 1"):
        load(folder)


def test_two_labels_of_a_model_in_memory_are_refused(
    tiny_dir: Path, make_trainer: Callable[..., Any]
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny_dir, num_labels=2)
    with pytest.raises(ConfigError, match="2 labels, a reward model has 1"):
        make_trainer(reward_funcs=model)


def test_a_language_model_is_no_reward_model(tiny_dir: Path, load: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="LlamaForCausalLM is not a sequence classifier"):
        load(tiny_dir)


@pytest.mark.parametrize("name", ["nowhere/at-all", "empty"])
def test_what_is_no_model_is_refused(
    tmp_path: Path, load: Callable[..., Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=name):
        load(name)


def test_a_model_comes_with_its_tokenizer_and_other_rewards_without(
    reward_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    rewards, tokenizers = load_rewards(
        [str(reward_dir), "http://localhost:1/score"], policy_tokenizer=tokenizer
    )
    assert len(rewards) == 2
    assert tokenizers[0] is not None
    assert tokenizers[0].eos_token == tokenizer.eos_token
    assert tokenizers[1] is None


def test_a_run_without_an_accuracy_is_named(
    reward_dir: Path, load: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    Run("rm", "rm", "f", status="finished").write(reward_dir)
    with caplog.at_level(logging.WARNING):
        load(reward_dir)
    assert f"{reward_dir / RECORD} has no eval_accuracy" in caplog.text


@pytest.mark.parametrize("trusted", [False, True])
def test_code_beside_a_reward_model_runs_only_if_it_is_trusted(
    reward_dir: Path, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    asked: list[bool] = []

    def tokenizer_of(path: str, *, trust_remote_code: bool = False) -> Any:
        asked.append(trust_remote_code)
        raise ValueError("no tokenizer\nhere")

    monkeypatch.setattr(rewards, "load_padding_tokenizer", tokenizer_of)
    with pytest.raises(ConfigError, match=r"cannot be loaded \(no tokenizer\)"):
        load(reward_dir, trust_remote_code=trusted)
    assert asked == [trusted]


def test_no_reward_at_all_is_refused(load: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="nothing to learn from"):
        load()


def measured(folder: Path, accuracy: float) -> None:
    """Let a reward model be a run that measured an accuracy."""
    Run("rm", "rm", "f", status="finished", metrics={"eval_accuracy": accuracy}).write(folder)


def test_the_gate_refuses_a_reward_model_that_never_learned(
    reward_dir: Path, load: Callable[..., Any]
) -> None:
    measured(reward_dir, 0.51)
    with pytest.raises(ConfigError, match=r"in 51\.0% of cases, under the gate of 55%"):
        load(reward_dir)
    assert isinstance(load(reward_dir, accuracy_gate=0.51), ModelReward), "the gate itself passes"
    assert isinstance(load(reward_dir, accuracy_gate=0.5), ModelReward)
    measured(reward_dir, float("nan"))
    with pytest.raises(ConfigError, match="under the gate"):
        load(reward_dir)


def test_the_gate_lets_a_good_one_through_and_names_the_unknown(
    reward_dir: Path, load: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        load(reward_dir)
    assert "its held-out accuracy is unknown" in caplog.text
    caplog.clear()
    measured(reward_dir, 0.9)
    with caplog.at_level(logging.WARNING):
        load(reward_dir)
    assert not caplog.text


def test_statistics_are_read_and_checked(reward_dir: Path, load: Callable[..., Any]) -> None:
    assert load(reward_dir).stats is None
    path = reward_dir / "reward_stats.json"
    path.write_text(json.dumps({"mean": 1.5, "std": 2.0, "count": 100}))
    assert tuple(load(reward_dir).stats) == (1.5, 2.0)
    path.write_text(json.dumps({"mean": 1.5}))
    with pytest.raises(ConfigError, match=r"reward_stats\.json"):
        load(reward_dir)
    path.write_text(json.dumps({"mean": 1.5, "std": 0.0, "count": 1}))
    with pytest.raises(ConfigError, match="never differ"):
        load(reward_dir)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"not mean, std and count \("),
        ('{"mean": "x", "std": 1}', r"not mean, std and count \("),
        ("[]", r"not mean, std and count \("),
        ('{"mean": 1, "std": 0}', r"std is 0\.0, so the scores never differ"),
        ('{"mean": 1, "std": NaN}', "std is nan, so the scores never differ"),
    ],
)
def test_broken_statistics_say_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "reward_stats.json").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_stats(tmp_path)
    assert "run rm again" in str(caught.value)
    (tmp_path / "reward_stats.json").write_text('{"mean": -1, "std": 0.25, "作者": "乙"}')
    assert read_stats(tmp_path) == ScoreStats(-1.0, 0.25)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1.0], "returned 1 scores for 2 completions"),
        ([1.0, float("nan")], "row 1 is nan"),
        ([float("inf"), 1.0], "row 0 is inf"),
        ([1.0, "good"], r"row 1 is 'good' \(str\), not a number"),
        (3.0, "returned float, not a list of numbers"),
    ],
)
def test_a_functions_bad_answer_names_function_and_row(answer: Any, message: str) -> None:
    reward = FunctionReward(lambda **columns: answer, name="rules:polite")
    with pytest.raises(DataError, match=f"reward rules:polite: {message}"):
        reward(prompts=["a", "b"], completions=["c", "d"])


@pytest.mark.parametrize(
    "answer",
    [[1, None], (1.0, None), [np.float32(1), None], [torch.tensor(1.0), None], [True, None]],
)
def test_a_functions_good_answers(answer: Any) -> None:
    reward = FunctionReward(lambda **columns: answer, name="f")
    assert reward(prompts=["a", "b"], completions=["c", "d"]) == [1.0, None]


def test_tensors_and_async_functions_are_taken() -> None:
    async def slow(completions: list[str], **columns: Any) -> torch.Tensor:
        return torch.tensor([float(len(c)) for c in completions])

    reward = FunctionReward(slow, name="f")
    assert reward(prompts=["a", "b"], completions=["c", "dd"]) == [1.0, 2.0]


def test_a_function_is_found_by_module_and_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any]
) -> None:
    (tmp_path / "my_rules.py").write_text(
        "def length(prompts, completions, **columns):\n"
        "    return [len(c) * f for c, f in zip(completions, columns['factor'])]\n"
    )
    monkeypatch.chdir(tmp_path)
    reward = load("my_rules:length")
    assert reward(prompts=["a"], completions=["abc"], factor=[2]) == [6.0]
    assert load("./my_rules.py:length")(prompts=["a"], completions=["ab"], factor=[2]) == [4.0]
    with pytest.raises(ConfigError, match="no function 'width'"):
        load("my_rules:width")
    with pytest.raises(ConfigError, match="no module 'not_there'"):
        load("not_there:length")


class Scorer(BaseHTTPRequestHandler):
    """Answers as `replies` says: a status, or a list of scores, or anything else as JSON."""

    replies: ClassVar[list[Any]] = []
    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(json.loads(body))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        self.send_response(reply if isinstance(reply, int) else 200)
        self.end_headers()
        if not isinstance(reply, int):
            self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[Scorer]]]:
    monkeypatch.setattr(reward_http, "_FIRST_WAIT", 0.01)

    class Handler(Scorer):
        replies: ClassVar[list[Any]] = [{"scores": [0.5, 1.5]}]
        asked: ClassVar[list[dict[str, Any]]] = []

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/score", Handler
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_an_http_scorer_gets_prompts_and_completions(
    server: tuple[str, type[Scorer]], load: Callable[..., Any]
) -> None:
    url, handler = server
    for address in (url, url.replace("http", "HTTP")):
        scores = load(address)(prompts=["a", "b"], completions=["c", "d"], other=[1, 2])
        assert scores == [0.5, 1.5]
    assert handler.asked == [{"prompts": ["a", "b"], "completions": ["c", "d"]}] * 2


def test_an_http_scorer_is_asked_again_after_a_failure(
    server: tuple[str, type[Scorer]], load: Callable[..., Any]
) -> None:
    url, handler = server
    handler.replies = [503, 429, {"scores": [1, 2]}]
    assert load(url, retries=2)(prompts=["a", "b"], completions=["c", "d"]) == [1.0, 2.0]
    handler.replies = [503]
    handler.asked.clear()
    with pytest.raises(ConfigError, match="no answer after 3 attempts"):
        load(url, retries=2)(prompts=["a", "b"], completions=["c", "d"])
    assert len(handler.asked) == 3


def test_an_http_scorers_refusal_is_final(
    server: tuple[str, type[Scorer]], load: Callable[..., Any]
) -> None:
    url, handler = server
    handler.replies = [404]
    with pytest.raises(ConfigError, match="HTTP 404"):
        load(url)(prompts=["a", "b"], completions=["c", "d"])
    assert len(handler.asked) == 1


@pytest.mark.parametrize(
    "reply", [{"score": [1, 2]}, [1, 2], {"scores": [1]}, {"scores": [1, "x"]}]
)
def test_an_http_scorers_bad_answer_is_named(
    server: tuple[str, type[Scorer]], load: Callable[..., Any], reply: Any
) -> None:
    url, handler = server
    handler.replies = [reply]
    with pytest.raises(DataError, match=url):
        load(url)(prompts=["a", "b"], completions=["c", "d"])


def test_an_http_scorer_that_hangs_is_given_up(load: Callable[..., Any]) -> None:
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(ConfigError, match="no answer after 1 attempts"):
            load(url, timeout=0.1, retries=0)(prompts=["a"], completions=["b"])


def test_ppo_trains_on_a_reward_model_a_function_and_a_scorer_together(
    reward_dir: Path,
    make_trainer: Callable[..., Any],
    load: Callable[..., Any],
    server: tuple[str, type[Scorer]],
) -> None:
    url, handler = server
    handler.replies = [{"scores": [0.25] * 8}]
    rewards = [load(reward_dir), FunctionReward(lambda **c: [2.0] * 8, name="two"), load(url)]
    trainer = make_trainer(
        reward_funcs=rewards, reward_weights=[1.0, 0.5, 4.0], missing_eos_penalty=None
    )
    trainer.train()
    row = trainer.state.log_history[0]
    assert row["rewards/two"] == 2.0
    assert row["rewards/score"] == 0.25
    expected = row["rewards/rm"] + 0.5 * 2.0 + 4.0 * 0.25
    assert row["objective/score"] == pytest.approx(expected, abs=1e-5)


class Raw(BaseHTTPRequestHandler):
    """Answers with bytes as they are, piece by piece, with pauses."""

    pieces: ClassVar[list[list[bytes]]] = []
    pause: ClassVar[float] = 0.0
    headers_seen: ClassVar[list[dict[str, str]]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.headers_seen.append({**self.headers, "path": self.path})
        pieces = self.pieces.pop(0) if len(self.pieces) > 1 else self.pieces[0]
        try:
            for piece in pieces:
                self.wfile.write(piece)
                self.wfile.flush()
                time.sleep(self.pause)
        except OSError:  # the client has given up
            pass
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass


def whole(answer: bytes, length: int | None = None) -> list[bytes]:
    size = len(answer) if length is None else length
    return [f"HTTP/1.0 200 OK\r\nContent-Length: {size}\r\n\r\n".encode(), answer]


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[Raw]]]:
    monkeypatch.setattr(reward_http, "_FIRST_WAIT", 0.01)

    class Handler(Raw):
        pieces: ClassVar[list[list[bytes]]] = [whole(b'{"scores": [1]}')]
        pause: ClassVar[float] = 0.0
        headers_seen: ClassVar[list[dict[str, str]]] = []

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"127.0.0.1:{httpd.server_port}", Handler
    httpd.shutdown()
    httpd.server_close()
    thread.join()


ONE = {"prompts": ["a"], "completions": ["b"]}


@pytest.mark.parametrize(
    "broken",
    [
        whole(b'{"scores": [1', 15),  # fewer bytes than announced
        [b"HTTP/1.0 200 OK\r\n\r\n", b'{"scores": [1'],  # no length, and cut
        [b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"],
        [b""],  # closed without an answer
        [b"nonsense\r\n\r\n"],
    ],
)
def test_an_answer_that_breaks_is_asked_for_again(
    broken: list[bytes], raw: tuple[str, type[Raw]], load: Callable[..., Any]
) -> None:
    host, handler = raw
    handler.pieces = [broken, whole(b'{"scores": [1]}')]
    assert load(f"http://{host}/", retries=1)(**ONE) == [1.0]
    assert len(handler.headers_seen) == 2
    handler.pieces = [broken]
    with pytest.raises((ConfigError, DataError), match=r"no answer after 2 attempts|answered b"):
        load(f"http://{host}/", retries=1)(**ONE)


@pytest.mark.parametrize("drips", [[b"HTTP/1.0 200 OK\r\n\r\n"] + [b" "] * 50, [b"H"] * 50])
def test_an_answer_that_drips_is_given_up_as_a_whole(
    drips: list[bytes], raw: tuple[str, type[Raw]], load: Callable[..., Any]
) -> None:
    host, handler = raw
    handler.pieces, handler.pause = [drips], 0.1
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"no whole answer in 0\.3 s"):
        load(f"http://{host}/", timeout=0.3, retries=0)(**ONE)
    assert time.monotonic() - began < 1.5


def test_an_answer_without_end_is_refused(
    raw: tuple[str, type[Raw]], load: Callable[..., Any]
) -> None:
    host, handler = raw
    handler.pieces = [[b"HTTP/1.0 200 OK\r\n\r\n"] + [b" " * 65536] * 50]
    with pytest.raises(DataError, match=r"the answer is longer than 1,010,000 bytes"):
        load(f"http://{host}/")(**ONE)
    assert len(handler.headers_seen) == 1


def test_secrets_in_a_url_are_sent_and_never_shown(
    raw: tuple[str, type[Raw]], load: Callable[..., Any]
) -> None:
    host, handler = raw
    reward = load(f"http://me:hunter2@{host}?api_key=s3cret", retries=0)
    assert reward(**ONE) == [1.0]
    assert reward.__name__ == "127.0.0.1"
    assert handler.headers_seen[0]["Authorization"] == "Basic bWU6aHVudGVyMg=="
    assert handler.headers_seen[0]["path"] == "/?api_key=s3cret"
    handler.pieces = [whole(b"[]")]
    with pytest.raises(DataError) as caught:
        reward(**ONE)
    assert str(caught.value).startswith(
        f"reward http://<redacted>@{host}?api_key=<redacted>: answered b'[]'"
    )
