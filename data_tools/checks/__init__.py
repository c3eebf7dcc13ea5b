"""Lists what can be wrong with preference data: stable codes, their severity and meaning."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from alignment.errors import ConfigError
from data_tools.reading import place

SEVERITIES = ("info", "warn", "error")


class Check(NamedTuple):
    """One kind of flaw.

    Attributes:
        severity: `error` (the row harms or breaks training), `warn` (look at it) or `info`.
        meaning: One line for tables and the README.
    """

    severity: str
    meaning: str


class Where(NamedTuple):
    """A row of a source; row 0 stands for the whole source.

    Attributes:
        line: The line on which the row starts, or on which its error is; None if it has none.
        column: The column of an error of the parser.
    """

    source: str
    row: int
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        if not self.row:
            return f"{self.source}: whole file"
        found = place(self.source, self.row, self.line, self.column)
        return found if self.line is None else f"{found} (row {self.row})"


class Finding(NamedTuple):
    """One flaw of one row.

    Attributes:
        code: A key of CHECKS.
        part: The part of the record that has it, or nothing.
        found: What was found; safe to print, without personal data and secrets.
    """

    code: str
    part: str = ""
    found: str = ""


CHECKS: dict[str, Check] = {
    "malformed": Check("error", "the row cannot be parsed: JSON, CSV, UTF-8"),
    "duplicate_key": Check("error", "a key appears twice in one object"),
    "schema": Check("error", "keys, types or roles are those of no format"),
    "empty_prompt": Check("error", "the prompt has no visible character"),
    "empty_chosen": Check("error", "the chosen answer has no visible character"),
    "empty_rejected": Check("error", "the rejected answer has no visible character"),
    "empty_completion": Check("error", "the answer has no visible character"),
    "empty_messages": Check("error", "the last turn has no visible character"),
    "empty_text": Check("error", "the text has no visible character"),
    "unused_column": Check("info", "columns with text or scores that nothing reads"),
    "prompt_mismatch": Check("error", "chosen and rejected do not answer the same prompt"),
    "unusable": Check("error", "the row gives no pair: no answer, one answer, unranked"),
    "chosen_eq_rejected": Check(
        "error", "both answers are equal, except for white space around them"
    ),
    "chosen_eq_rejected_normalised": Check(
        "error", "both answers are equal after NFKC, without spaces, case folded"
    ),
    "chosen_near_rejected": Check("warn", "the answers are at least 95 % similar"),
    "answer_is_prefix": Check("warn", "one answer is the beginning of the other"),
    "tie": Check("warn", "both answers have the same score"),
    "negative_margin": Check("error", "the rejected answer has the higher score"),
    "min_margin": Check("info", "the scores are closer than `--min-margin`"),
    "no_margin": Check("info", "there are no scores to compare with `--min-margin`"),
    "over_cap": Check("info", "the prompt has more pairs than `--max-pairs`"),
    "duplicate_pair": Check("warn", "the same prompt, chosen and rejected as an earlier row"),
    "duplicate_prompt": Check("warn", "the same prompt as an earlier row: split by group"),
    "near_duplicate": Check("warn", "at least 90 % similar to an earlier row on another prompt"),
    "contradiction": Check("error", "another row on this prompt prefers the other answer"),
    "preference_cycle": Check("warn", "the preferences on one prompt form a circle"),
    "chosen_elsewhere_rejected": Check(
        "info", "an answer is chosen in one row and rejected in another"
    ),
    "rejected_in_many": Check("warn", "one answer is rejected under five or more prompts"),
    "leak_exact": Check("error", "a training row has the prompt of an evaluation row"),
    "leak_near": Check("warn", "a training row has nearly the prompt of an evaluation row"),
    "contamination": Check("warn", "training text contains a large part of an evaluation row"),
    "role_order": Check(
        "warn", "two turns of one role follow each other, or the last turn is no answer"
    ),
    "role_marker_in_body": Check("warn", "`Human:` or `Assistant:` inside a turn"),
    "special_token": Check("error", "the text contains a special token of a template or tokenizer"),
    "literal_backslash_n": Check("warn", "a backslash and an n outside code and formulas"),
    "replacement_char": Check("warn", "U+FFFD: text was lost in decoding"),
    "zero_width_or_control": Check("warn", "invisible characters"),
    "mojibake": Check("warn", "text decoded with the wrong encoding"),
    "html": Check("info", "HTML tags or entities outside code"),
    "sentinel_input": Check("warn", "the prompt ends in `No input`, `无输入` or the like"),
    "sentinel_output": Check("warn", "the answer is `No output`, `无输出` or the like"),
    "stringified_messages": Check("error", "messages written as the text of a list"),
    "language_mismatch": Check("warn", "chosen and rejected are in different languages"),
    "language_of_prompt": Check("info", "neither answer is in the prompt's language"),
    "script_mismatch": Check("info", "one answer in traditional, one in simplified Chinese"),
    "unfinished_answer": Check(
        "info", "an answer ends inside a sentence, or the generator stopped at its limit"
    ),
    "no_final_mark": Check(
        "info", "the last sentence of an answer has no final mark, though earlier ones have"
    ),
    "pii_email": Check("warn", "an e-mail address"),
    "pii_phone_cn": Check("warn", "a Chinese mobile number"),
    "pii_phone_us": Check("warn", "a US telephone number"),
    "pii_ssn_like": Check("warn", "looks like a US social security number"),
    "pii_id_cn": Check("warn", "a Chinese identity number with a valid checksum"),
    "pii_card": Check("warn", "a payment card number with a valid checksum"),
    "pii_ipv4": Check("info", "an IPv4 address"),
    "secret": Check(
        "error", "a key of AWS, GitHub, OpenAI, Hugging Face and others, or a private key"
    ),
    "length_bias": Check("warn", "chosen is longer in over 60 % (or under 40 %) of the pairs"),
    "refusal_shortcut": Check("warn", "refusals are on one side: declining gives the label away"),
    "template_shortcut": Check("warn", "answers of one side begin or end in the same words"),
    "cue_shortcut": Check("warn", "a list, final punctuation or the like gives the label away"),
    "model_shortcut": Check("warn", "the answers of one model are on one side"),
    "template": Check("error", "the chat template refuses the row, or hides where an answer is"),
    "truncated": Check("info", "longer than max_length under the tokenizer and template"),
    "truncated_share": Check("warn", "over 1 % of the records are longer than max_length"),
    "cut_one_side": Check("warn", "one side is cut more often: the cut gives the label away"),
    "prompt_truncated": Check("error", "the prompt alone fills max_length: no answer is left"),
    "equal_once_cut": Check("error", "chosen and rejected are equal after the cut to max_length"),
    "licence": Check("info", "the source forbids commercial use, or states no licence"),
}


def known(fail_on: Iterable[str]) -> frozenset[str]:
    """Check what `--fail-on` names.

    Raises:
        ConfigError: If a name is neither a code nor a severity.
    """
    names = frozenset(fail_on)
    if unknown := sorted(names - set(CHECKS) - set(SEVERITIES)):
        raise ConfigError(
            f"--fail-on {unknown[0]}: no such code",
            f"codes are listed in data_tools/README.md; severities: {', '.join(SEVERITIES)}",
        )
    return names


def failing(found: Iterable[str], fail_on: Iterable[str]) -> list[str]:
    """Return the codes that fail a run: errors, named codes, and all from a named severity on.

    Args:
        found: The codes that were found.
        fail_on: Codes and severities; the mildest severity counts.

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


def visible(text: str) -> str:
    """Return a text with its control characters escaped, which a terminal would obey."""
    return CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""All but tabs and line ends: escape sequences of terminals, and marks that turn text around."""
