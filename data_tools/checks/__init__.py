"""What can be wrong with preference data: stable codes, how bad each is, what it means."""

from collections.abc import Iterable
from typing import NamedTuple

from alignment.errors import ConfigError

SEVERITIES = ("info", "warn", "error")


class Check(NamedTuple):
    """One kind of flaw.

    Attributes:
        severity: error (the row harms or breaks training), warn (look at it), info.
        meaning: One line for tables and for the README.
    """

    severity: str
    meaning: str


class Where(NamedTuple):
    """A row of a source."""

    source: str
    row: int


class Finding(NamedTuple):
    """One flaw in one row; `part` is where in it, `found` what, already safe to print."""

    code: str
    part: str = ""
    found: str = ""


CHECKS: dict[str, Check] = {
    "malformed": Check("error", "the row cannot be parsed: JSON, CSV, UTF-8"),
    "duplicate_key": Check("error", "a key stands twice in one object"),
    "schema": Check("error", "keys, types or roles are not those of any format"),
    "empty_prompt": Check("error", "nothing visible in the prompt"),
    "empty_chosen": Check("error", "nothing visible in the chosen answer"),
    "empty_rejected": Check("error", "nothing visible in the rejected answer"),
    "empty_completion": Check("error", "nothing visible in the answer"),
    "empty_messages": Check("error", "nothing visible in the last turn"),
    "empty_text": Check("error", "nothing visible in the text"),
    "prompt_mismatch": Check("error", "chosen and rejected do not answer the same prompt"),
    "unusable": Check("error", "the row holds no pair: no answer, one answer, unranked"),
    "chosen_eq_rejected": Check("error", "both answers are equal but for outer space"),
    "chosen_eq_rejected_normalised": Check(
        "error", "equal after NFKC, without spaces, case folded"
    ),
    "chosen_near_rejected": Check("warn", "answers at least 95 % alike"),
    "answer_is_prefix": Check("warn", "one answer is the beginning of the other"),
    "tie": Check("warn", "both answers have the same score"),
    "negative_margin": Check("error", "the rejected answer has the higher score"),
    "min_margin": Check("info", "scores closer than `--min-margin`"),
    "no_margin": Check("info", "no scores to hold `--min-margin` against"),
    "over_cap": Check("info", "more pairs on the prompt than `--max-pairs`"),
    "duplicate_pair": Check("warn", "the same prompt, chosen and rejected as an earlier row"),
    "duplicate_prompt": Check("warn", "the prompt of an earlier row: split by group"),
    "contradiction": Check("error", "another row on this prompt prefers the other way round"),
    "preference_cycle": Check("warn", "preferences on one prompt run in a circle"),
    "chosen_elsewhere_rejected": Check("info", "an answer is chosen here, rejected there"),
    "rejected_in_many": Check("warn", "one answer is rejected under five or more prompts"),
    "leak_exact": Check("error", "the prompt of an evaluation row is a training row's"),
    "leak_near": Check("warn", "a training prompt is nearly that of an evaluation row"),
    "contamination": Check("warn", "training text holds a good part of an evaluation row"),
    "role_order": Check("warn", "two turns of one role in a row, or the answer is not last"),
    "role_marker_in_body": Check("warn", "`Human:` or `Assistant:` inside a turn"),
    "special_token": Check("error", "a template's or tokenizer's token in the text"),
    "literal_backslash_n": Check("warn", "a backslash and an n where a newline may be meant"),
    "replacement_char": Check("warn", "U+FFFD: text was lost in decoding"),
    "zero_width_or_control": Check("warn", "characters that cannot be seen"),
    "mojibake": Check("warn", "text decoded with the wrong encoding"),
    "html": Check("info", "HTML tags or entities"),
    "sentinel_input": Check("warn", "the prompt ends in `No input`, `无输入` and the like"),
    "language_mismatch": Check("warn", "chosen and rejected are in different languages"),
    "language_of_prompt": Check("info", "neither answer is in the prompt's language"),
    "script_mismatch": Check("info", "one answer in traditional, one in simplified Chinese"),
    "unfinished_answer": Check("info", "an answer without a final mark: cut off?"),
    "pii_email": Check("warn", "an e-mail address"),
    "pii_phone_cn": Check("warn", "a Chinese mobile number"),
    "pii_phone_us": Check("warn", "a US telephone number"),
    "pii_ssn_like": Check("warn", "written like a US social security number"),
    "pii_id_cn": Check("warn", "a Chinese identity number with a right checksum"),
    "pii_card": Check("warn", "a payment card number with a right checksum"),
    "pii_ipv4": Check("info", "an IPv4 address"),
    "secret": Check("error", "a key of AWS, GitHub, OpenAI, Hugging Face, or a private key"),
    "length_bias": Check("warn", "chosen is longer in over 60 % (or under 40 %) of the pairs"),
    "refusal_shortcut": Check("warn", "refusals stand on one side: declining is the label"),
    "template_shortcut": Check("warn", "answers of one side begin or end in the same words"),
    "cue_shortcut": Check("warn", "a list, a final mark or the like tells the sides apart"),
    "model_shortcut": Check("warn", "one model's answers stand on one side"),
    "template": Check("error", "the chat template refuses the row, or hides where an answer is"),
    "truncated": Check("info", "longer than max_length under the tokenizer and template"),
    "truncated_share": Check("warn", "over 1 % of the records are longer than max_length"),
    "cut_one_side": Check("warn", "one side is cut more often: being cut is the label"),
    "prompt_truncated": Check("error", "the prompt alone fills max_length: no answer is left"),
    "equal_once_cut": Check("error", "chosen and rejected are equal once cut to max_length"),
    "licence": Check("info", "the source forbids commercial use, or states no licence"),
}


def known(fail_on: Iterable[str]) -> frozenset[str]:
    """What `--fail-on` names, each a code or a severity.

    Raises:
        ConfigError: If one is neither.
    """
    names = frozenset(fail_on)
    if unknown := sorted(names - set(CHECKS) - set(SEVERITIES)):
        raise ConfigError(
            f"--fail-on {unknown[0]}: no such code",
            f"codes are listed in data_tools/README.md; severities: {', '.join(SEVERITIES)}",
        )
    return names


def failing(found: Iterable[str], fail_on: Iterable[str]) -> list[str]:
    """Of the codes found those that fail a run: errors, and what `fail_on` names or what is worse.

    Raises:
        ConfigError: If `fail_on` names neither a code nor a severity.
    """
    names = known(fail_on)
    least = min((SEVERITIES.index(level) for level in names & set(SEVERITIES)), default=None)
    bound = SEVERITIES.index("error") if least is None else least
    return sorted(
        {
            code
            for code in found
            if code in names or SEVERITIES.index(CHECKS[code].severity) >= bound
        }
    )
