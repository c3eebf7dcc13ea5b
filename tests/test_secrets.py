"""Each name and shape of a secret is redacted, and what only looks like one stays."""

import logging
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator

import pytest

from alignment import secrets
from alignment.secrets import (
    guard_output,
    is_secret,
    redact,
    redact_text,
    redact_words,
    tell_exception,
)
from data_tools.checks.texts import redacted, text_findings
from data_tools.secret_patterns import SECRET_CUES, SECRET_PATTERNS

VALUE = "correct-horse-battery"
HIDDEN = "<redacted>"


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "hf_token",
        "OPENAI_API_KEY",
        "OPENAI_APIKEY",
        "WANDB_API_KEY",
        "KEY",
        "DEPLOY_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET",
        "DB_PASSWORD",
        "DB_PASSWD",
        "GOOGLE_CREDENTIAL",
        "GOOGLE_CREDENTIALS",
        "GITHUB_PAT",
    ],
)
def test_the_value_of_each_secret_variable_is_redacted(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, VALUE)
    assert redact_text(f"a {VALUE} b {VALUE}") == f"a {HIDDEN} b {HIDDEN}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MONKEY", VALUE),  # ends in KEY, but has no underscore before it
        ("KEYBOARD", VALUE),
        ("TOKENIZERS_PARALLELISM", VALUE),
        ("SECRETARY", VALUE),
        ("PATH", VALUE),
        ("HF_TOKEN", "seven77"),  # so short that it could be a word
    ],
)
def test_the_value_of_another_variable_stays(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert redact_text(f"a {value} b") == f"a {value} b"


def test_a_secret_of_eight_characters_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "eight888")
    assert redact_text("eight888") == HIDDEN


def test_of_two_secrets_the_longer_one_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "abcdefgh")
    monkeypatch.setenv("B_TOKEN", "abcdefgh-ijklmnop")
    assert redact_text("abcdefgh-ijklmnop abcdefgh") == f"{HIDDEN} {HIDDEN}"


def test_a_secret_within_another_leaves_no_rest_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "zyxwvuts")
    monkeypatch.setenv("B_TOKEN", "ab-zyxwvuts")
    assert redact_text("ab-zyxwvuts") == HIDDEN


def test_values_in_lists_and_mappings_are_redacted_and_others_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_TOKEN", VALUE)
    given = {"a": [VALUE, 3, None, {"token": "x", "n": 0.5}], "b": f"see {VALUE}"}
    assert redact("settings", given) == {
        "a": [HIDDEN, 3, None, {"token": HIDDEN, "n": 0.5}],
        "b": f"see {HIDDEN}",
    }


@pytest.mark.parametrize(
    "written", ["tab\t\"é/'quoted", r"tab\t\"\u00e9/'quoted", "tab%09%22%C3%A9%2F%27quoted"]
)
def test_a_secret_is_found_plain_and_escaped(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("A_TOKEN", "tab\t\"é/'quoted")
    assert redact_text(f"<{written}>") == f"<{HIDDEN}>"
    shown = repr({"a": "tab\t\"é/'quoted"})
    assert redact_text(shown) == "{'a': '" + HIDDEN + "'}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hf_" + "aB3" * 11 + "x", HIDDEN),  # 34 characters, as the hub makes them
        ("hf_" + "a" * 16, HIDDEN),
        ("hf_" + "a" * 15, None),
        ("hf_hub_download_to_local_dir", None),
        ("AKIA" + "A1" * 8, HIDDEN),
        ("ASIA" + "A1" * 8, HIDDEN),
        ("AKIA" + "A" * 15, None),
        ("AKIa" + "A" * 16, None),
        ("sk-" + "a_B-9" * 4, HIDDEN),
        ("sk-" + "a" * 15, None),
        ("Authorization: Bearer abc.d~e+f/g=-", f"Authorization: Bearer {HIDDEN}"),
        ("Authorization: Basic dXNlcjpwYXNz==", f"Authorization: Basic {HIDDEN}"),
        ("Bearer of", None),
        ("Basic rules", None),
        ("the tokenizer has 151936 tokens", None),
    ],
)
def test_each_shape_of_a_key_is_redacted_and_nothing_else(text: str, shown: str | None) -> None:
    assert redact_text(f"see {text}, then") == f"see {shown or text}, then"


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("token", True),
        ("hub_token", True),
        ("--hub-token", True),
        ("HUB_TOKEN", True),
        ("api_key", True),
        ("client_secret", True),
        ("password", True),
        ("db_password", True),
        ("tokens", False),
        ("key", False),  # a column
        ("eos_token", False),
        ("bos_token", False),
        ("pad_token", False),
        ("unk_token", False),
        ("--eos-token", False),
        ("max_new_tokens", False),
    ],
)
def test_the_name_of_a_key_says_whether_it_is_secret(key: str, secret: bool) -> None:
    assert is_secret(key) is secret
    assert redact(key, "abc") == (HIDDEN if secret else "abc")
    assert redact("outer", {key: "abc"}) == {key: HIDDEN if secret else "abc"}


@pytest.mark.parametrize("value", [None, "", False, 0])
def test_a_secret_key_without_a_value_is_shown(value: object) -> None:
    assert redact("hub_token", value) == value


@pytest.mark.parametrize("name", ["apikey", "auth", "authorization", "code", "pass", "passwd",
                                  "pwd", "secret", "sig", "signature", "credential", "key",
                                  "X-Amz-Credential", "x_sig", "API-KEY"])  # fmt: skip
def test_each_secret_parameter_of_a_url_is_redacted(name: str) -> None:
    assert redact_text(f"http://h/?a=1&{name}=x1;b=2") == f"http://h/?a=1&{name}={HIDDEN};b=2"


@pytest.mark.parametrize("text", ["http://h/?author=me", "http://h/?encode=1", "http://h/#key=1"])
def test_other_parts_of_a_url_stay(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--hub_token", "abc", "def"], ["--hub_token", HIDDEN, "def"]),
        (["--hub_token", "--beta", "1"], ["--hub_token", "--beta", "1"]),
        (["--hub_token=abc", "def"], [f"--hub_token={HIDDEN}", "def"]),
        (["--beta=1", "token", "abc"], ["--beta=1", "token", "abc"]),
        (["token=abc"], ["token=abc"]),  # no flag
        (["--a=b=c"], ["--a=b=c"]),
    ],
)
def test_the_value_of_each_secret_flag_is_redacted(words: list[str], shown: list[str]) -> None:
    assert redact_words(words) == shown


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `guard_output` sets is set back after the test."""
    monkeypatch.setenv("A_TOKEN", VALUE)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    monkeypatch.setattr(warnings, "formatwarning", secrets._plain_warning)
    factory = logging.getLogRecordFactory()
    guard_output()
    yield
    logging.setLogRecordFactory(factory)


def error() -> ValueError:
    try:
        raise ValueError(f"no {VALUE}")
    except ValueError as caught:
        return caught


def test_tracebacks_of_all_threads_are_redacted(
    guarded: None, capsys: pytest.CaptureFixture[str]
) -> None:
    caught = error()
    sys.excepthook(ValueError, caught, caught.__traceback__)
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last):\n")
    assert told.endswith(f"ValueError: no {HIDDEN}\n")
    assert 'in error\n    raise ValueError(f"no {VALUE}")' in told
    for raised, expected in ((caught, told), (SystemExit(VALUE), ""), (None, "")):
        args = (type(raised), raised, raised and raised.__traceback__, None)
        threading.excepthook(threading.ExceptHookArgs(args))
        assert capsys.readouterr().err == expected


def test_a_prefix_is_before_each_line_of_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    caught = error()
    tell_exception(ValueError, caught, caught.__traceback__, prefix="[rank 1] ")
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "[rank 1] Traceback (most recent call last):"
    assert all(line.startswith("[rank 1] ") for line in told)
    capsys.readouterr()
    tell_exception(ValueError, caught, caught.__traceback__)
    told = capsys.readouterr().err
    assert told == "".join(traceback.format_exception(caught))
    tell_exception(None, None, None)
    assert capsys.readouterr().err == "NoneType: None\n"


def test_log_lines_and_warnings_are_redacted(
    guarded: None, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("a.library")
    logger.error("no %s of %d", VALUE, 3)
    try:
        raise ValueError(VALUE)
    except ValueError:
        logger.exception("failed")
    assert caplog.records[0].getMessage() == f"no {HIDDEN} of 3"
    assert caplog.records[0].exc_text is None
    text = caplog.records[1].exc_text
    assert text is not None
    lines = text.split("\n")
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].startswith("  File ")
    assert lines[-1] == f"ValueError: {HIDDEN}"
    named = logging.getLogRecordFactory()("n", 40, "p", 3, "text", (), None, func="f", sinfo="s")
    assert (named.funcName, named.stack_info) == ("f", "s")
    shown = warnings.formatwarning(f"old {VALUE}", UserWarning, "file.py", 3, line="")
    assert shown == f"file.py:3: UserWarning: old {HIDDEN}\n"
    shown = warnings.formatwarning("old", UserWarning, "file.py", 3, line="x = 1")
    assert shown == "file.py:3: UserWarning: old\n  x = 1\n"


def test_hooks_of_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(args: object) -> None: ...

    factory, hook = logging.getLogRecordFactory(), sys.excepthook
    monkeypatch.setattr(threading, "excepthook", mine)
    monkeypatch.setattr(warnings, "formatwarning", mine)
    try:
        guard_output()
        assert threading.excepthook is mine
        assert warnings.formatwarning is mine
        assert sys.excepthook is tell_exception
    finally:
        logging.setLogRecordFactory(factory)
        sys.excepthook = hook


TOKENS = {
    "AWS": "AKIA" + "IB7XQ2M4KD9WPLZ5",
    "AWS, for a session": "ASIA" + "IB7XQ2M4KD9WPLZ5",
    "GitHub": "ghp_" + "aB3dE6gH9jK2mN5pQ8sT" + "1vW4yZ7bC0eF3hI6",
    "GitHub app": "ghs_" + "aB3dE6gH9jK2mN5pQ8sT" + "1vW4yZ7bC0eF3hI6",
    "GitHub, fine-grained": "github_pat_" + "11AB3DE6G0aB3dE6gH9jK2_" + "mN5pQ8sT1v" * 6,
    "GitLab": "glpat-" + "aB3dE6gH9-jK2mN5pQ8s",
    "OpenAI": "sk-" + "proj-aB3dE6gH9_jK2mN5pQ8sT1vW4yZ7b",
    "Anthropic": "sk-" + "ant-api03-aB3dE6gH9jK2mN5pQ8sT1vW4yZ7b",
    "DeepSeek": "sk-" + "0a1b2c3d4e5f60718293a4b5c6d7e8f9",
    "Hugging Face": "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH",
    "Hugging Face, of an organisation": "api_org_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH",
    "Weights & Biases": "wandb_v1_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF",
    "Groq": "gsk_" + "aB3dE6gH9jK2mN5pQ8sT" * 2 + "1vW4yZ7bC0eF",
    "xAI": "xai-" + "aB3dE6gH9jK2mN5pQ8sT" * 4,
    "NVIDIA": "nvapi-" + "aB3dE6gH9jK2mN5pQ8sT" * 3 + "_-1v",
    "Replicate": "r8_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hI6k",
    "Google": "AIza" + "SyaB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3",
    "Google, for a client": "GOCSPX-" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7b",
    "Google, for an hour": "ya29." + "a0AB3dE6gH9jK2mN5pQ8sT1vW4yZ7b",
    "Slack": "xoxb-" + "123456789012-1234567890123-aB3dE6gH9jK2",
    "Slack app": "xapp-" + "1-A0B1C2D3E4F-1234567890123-aB3dE6gH9jK2",
    "Slack hook": "hooks.slack.com/services/" + "T0B1C2D3E/B0F1G2H3I/aB3dE6gH9jK2mN5pQ8sT1vW4",
    "Stripe": "sk_live_" + "aB3dE6gH9jK2mN5pQ8sT1vW4",
    "Alibaba Cloud": "LTAI" + "5tAb3De6Gh9Jk2Mn5Pq8St1V",
    "Tencent Cloud": "AKID" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF",
    "npm": "npm_" + "aB3dE6gH9jK2mN5pQ8sT" + "1vW4yZ7bC0eF3hI6",
    "PyPI": "pypi-AgE" + "IcHlwaS5vcmcCJ" + "aB3dE6gH9jK2mN5pQ8sT" * 3,
    "SendGrid": "SG." + "aB3dE6gH9jK2mN5pQ8sT1v" + "." + "aB3dE6gH9jK2mN5pQ8sT" * 2 + "1vW",
    "Telegram": "1234567890" + ":AA" + "HaB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF",
    "JSON Web Token": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0In0.aB3dE6gH9jK2mN5pQ8sT",
    "private key": "-----BEGIN " + "RSA PRIVATE KEY-----\n" + "aB3dE6gH9jK2mN5pQ8sT\n" * 9
    + "kQ==\n-----END " + "RSA PRIVATE KEY-----",
    "private key in JSON": "-----BEGIN " + r"PRIVATE KEY-----\n" + r"aB3dE6gH9jK2mN5pQ8sT\n" * 9
    + r"kQ==\n-----END " + "PRIVATE KEY-----",
    "private key that is cut": "-----BEGIN " + "OPENSSH PRIVATE KEY-----\n"
    + "aB3dE6gH9jK2mN5p\n" * 9 + "kQ==",
}  # fmt: skip
"""A made-up key of each kind, written in two parts so that no scanner takes it for a real one."""


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
def test_a_token_of_each_kind_is_redacted_wherever_it_is(token: str) -> None:
    assert redact_text(f"denied: {token}, try again") == f"denied: {HIDDEN}, try again"
    assert redact_text(token) == HIDDEN
    assert redact("run_name", f"a {token}") == f"a {HIDDEN}"
    assert redact("model_init_kwargs", {"x": [token]}) == {"x": [HIDDEN]}
    assert redact_words(["--run_name", token, f"--seed={token}"]) == [
        "--run_name", HIDDEN, f"--seed={HIDDEN}"
    ]  # fmt: skip


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
def test_a_token_of_each_kind_is_found_in_data_and_shown_masked(token: str) -> None:
    findings = {one.code: one for one in text_findings(f"Use {token}, please.", "prompt")}
    finding = findings.pop("secret")
    assert {*findings} <= {"literal_backslash_n"}
    kept = re.findall(r"\w{6,}", token)
    assert kept
    assert not [part for part in kept if part in finding.found]
    assert redacted(f"Use {token}, please.") == "Use •••, please."


@pytest.mark.parametrize(
    "text",
    [
        "task-specific-adapters-v2", "risk-averse-pre-training", "mask-rcnn-resnet-50-fpn",
        "hf_hub_download_to_local_dir", "AKIAIB7XQ2M4KD9WPL", "github_pat_short", "xox-large",
        "eyJhbGciOiJIUzI1NiJ9", "-----BEGIN PUBLIC KEY-----", "-----BEGIN CERTIFICATE-----",
        "Qwen/Qwen2.5-0.5B-Instruct", "ghost_writers_of_the_nineteenth_century_and_later",
        "0123456789abcdef0123456789abcdef01234567", "12:34:56", "npm_config_registry", "LTAInside",
    ],
)  # fmt: skip
def test_what_only_begins_like_a_token_stays(text: str) -> None:
    assert redact_text(f"see {text} now") == f"see {text} now"
    assert not [one for one in text_findings(f"see {text} now", "x") if one.code == "secret"]


@pytest.mark.parametrize(
    "text",
    ["sk-xxxxxxxxxxxxxxxxxxxxxxxx", "hf_" + "x" * 34, "sk-your-api-key-goes-here",
     "ghp_" + "a" * 36, "hf_YourAccessTokenHere1234", "AKIA" + "X" * 16],
)  # fmt: skip
def test_what_documents_write_in_place_of_a_token_is_none_in_data(text: str) -> None:
    assert not list(text_findings(f"export KEY={text}", "x"))
    assert redact_text(text) == HIDDEN  # where nothing is lost by it


def test_text_around_a_private_key_stays() -> None:
    text = f"before\n{TOKENS['private key']}\nafter it"
    assert redact_text(text) == f"before\n{HIDDEN}\nafter it"


def test_beginnings_of_tokens_are_read_in_linear_time() -> None:
    began = time.process_time()
    for cue in SECRET_CUES:
        for text in (
            cue * (10**5 // len(cue)),
            f"{cue}\n" * (10**5 // len(cue)),
            cue + "a" * 10**5,
        ):
            redact_text(text)
    assert time.process_time() - began < 1e-6 * 3 * 10**5 * len(SECRET_CUES)  # 1 s for 1 MB


def test_each_cue_is_in_the_tokens_of_its_kind_and_no_kind_has_none() -> None:
    """A cue that is misspelled would hide its pattern from the checks of data."""
    for one in SECRET_PATTERNS:
        pattern = re.compile(one.pattern)
        assert [token for token in TOKENS.values() if pattern.search(token)], one.kind
    for token in TOKENS.values():
        assert [cue for cue in SECRET_CUES if cue in token], token
