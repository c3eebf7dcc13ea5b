"""The shapes of keys and tokens, which data should not hold and nothing that is printed shows."""

import re
from typing import NamedTuple


class SecretPattern(NamedTuple):
    """One kind of secret.

    Attributes:
        kind: Whose key it is.
        cues: Texts of which each occurrence has one; they are far faster to find.
        pattern: A regular expression whose repeats are bounded.
    """

    kind: str
    cues: tuple[str, ...]
    pattern: str


_LINE = r"(?:\\r|\\n|\s)"
"""White space, also as it is escaped in JSON."""

SECRET_PATTERNS = (
    SecretPattern(
        "AWS", ("AKIA", "ASIA", "ABIA", "ACCA"), r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b"
    ),
    SecretPattern(
        "GitHub",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_\w{50,255})",
    ),
    SecretPattern("GitLab", ("glpat-",), r"\bglpat-[\w-]{20,300}"),
    # also Anthropic, DeepSeek, DashScope and others
    SecretPattern("OpenAI", ("sk-",), r"\bsk-[A-Za-z0-9_-]{16,300}"),
    SecretPattern("Hugging Face", ("hf_", "api_org_"), r"\b(?:hf|api_org)_[A-Za-z0-9]{16,64}"),
    SecretPattern("Weights & Biases", ("wandb_v1_",), r"\bwandb_v1_\w{20,300}"),
    SecretPattern("Groq", ("gsk_",), r"\bgsk_[A-Za-z0-9]{32,64}"),
    SecretPattern("xAI", ("xai-",), r"\bxai-[A-Za-z0-9]{40,120}"),
    SecretPattern("NVIDIA", ("nvapi-",), r"\bnvapi-[\w-]{40,120}"),
    SecretPattern("Replicate", ("r8_",), r"\br8_[A-Za-z0-9]{32,64}"),
    SecretPattern(
        "Google",
        ("AIza", "ya29.", "GOCSPX-"),
        r"\b(?:AIza[\w-]{35}|ya29\.[\w-]{20,300}|GOCSPX-[\w-]{20,64})",
    ),
    SecretPattern(
        "Slack",
        ("xox", "xapp-", "hooks.slack.com"),
        r"\b(?:xox[abeprs]-[A-Za-z0-9-]{10,300}|xapp-\d-[A-Za-z0-9-]{10,300}"
        r"|hooks\.slack\.com/services/\w{6,20}/\w{6,20}/\w{16,40})",
    ),
    SecretPattern(
        "Stripe",
        ("sk_live_", "sk_test_", "rk_live_", "rk_test_"),
        r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,255}",
    ),
    SecretPattern("Alibaba Cloud", ("LTAI",), r"\bLTAI[A-Za-z0-9]{12,26}\b"),
    SecretPattern("Tencent Cloud", ("AKID",), r"\bAKID[A-Za-z0-9]{32,64}\b"),
    SecretPattern("npm", ("npm_",), r"\bnpm_[A-Za-z0-9]{36}\b"),
    SecretPattern("PyPI", ("pypi-AgE",), r"\bpypi-AgE[\w-]{50,600}"),
    SecretPattern("SendGrid", ("SG.",), r"\bSG\.[\w-]{16,64}\.[\w-]{16,128}"),
    SecretPattern("Telegram", (":AA",), r"\b\d{8,10}:AA[\w-]{33}"),
    SecretPattern(
        "JSON Web Token", ("eyJ",), r"\beyJ[\w-]{8,2000}\.eyJ[\w-]{8,4000}\.[\w-]{8,2000}"
    ),
    # with its body, which is lines of base64
    SecretPattern(
        "private key",
        ("-----BEGIN",),
        r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
        rf"(?:{_LINE}{{1,4}}[A-Za-z0-9+/=]{{16,100}}){{0,400}}"
        rf"(?:{_LINE}{{1,4}}[A-Za-z0-9+/=]{{1,100}})?"
        rf"(?:{_LINE}{{0,4}}-----END (?:[A-Z0-9]{{1,20}} ){{0,3}}PRIVATE KEY(?: BLOCK)?-----)?",
    ),
)

SECRET = re.compile("|".join(one.pattern for one in SECRET_PATTERNS))
"""A secret of any kind."""
SECRET_CUES = tuple(cue for one in SECRET_PATTERNS for cue in one.cues)


def hide_secrets(text: str, shown: str) -> str:
    """Return a text with `shown` in place of each secret."""
    return SECRET.sub(shown, text) if any(cue in text for cue in SECRET_CUES) else text
