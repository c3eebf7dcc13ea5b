"""Rules of the checks of one text, each with an example that is found and one that is not."""

import re

import pytest

from data_tools.checks.texts import shown, text_findings


def codes(text: str) -> set[str]:
    return {finding.code for finding in text_findings(text, "prompt")}


def found(text: str) -> list[tuple[str, str]]:
    return [(finding.code, finding.found) for finding in text_findings(text, "prompt")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # a card number: Luhn's sum, at least four different digits, 14 to 19 of them
        ("card 4539 1488 0343 6467.", True),
        ("card 4539 1488 0343 6468.", False),
        ("card 5105 1051 0510 5100", False),  # 5, 1 and 0
        ("card 4012 8888 8888 1881", True),  # 4, 0, 1, 2 and 8
        ("card 3782 8224 6310 005", True),
        ("card 3056 9309 0259 04", True),
        ("card 3055 5555 5555 55", False),
        ("card 4539148803436467", True),
        ("card 4539148803436467.5", False),
        ("sum 2 + 4539148803436467", False),
        ("sum 4539148803436467 + 2", False),
        ("sum 4539148803436467 is", True),
    ],
)
def test_cards_are_proved_by_their_checksum_and_place(text: str, expected: bool) -> None:
    assert ("pii_card" in codes(text)) is expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        # GB 11643's own examples
        ("11010519491231002X", True),
        ("440524188001010014", False),  # of the century before those that count
        ("11010519491231002x", True),
        ("110105194912310021", False),
    ],
)
def test_chinese_identity_numbers_are_proved_by_their_checksum(number: str, expected: bool) -> None:
    assert ("pii_id_cn" in codes(f"id {number} end")) is expected


def identity(birthday: str) -> str:
    """A number with a correct checksum by ISO 7064 MOD 11-2."""
    body = f"110105{birthday}002"
    weights = [2 ** (17 - at) % 11 for at in range(17)]
    rest = sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True)) % 11
    return body + "10X98765432"[rest]


@pytest.mark.parametrize(
    ("birthday", "expected"),
    [
        ("19490101", True),
        ("19491231", True),
        ("20001130", True),
        ("19490001", False),
        ("19491301", False),
        ("19490100", False),
        ("19490132", False),
        ("19492032", False),
        ("19493001", False),
        ("19490141", False),
    ],
)
def test_an_identity_number_holds_a_day_of_the_year(birthday: str, expected: bool) -> None:
    assert ("pii_id_cn" in codes(f"id {identity(birthday)} end")) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("123-45-6789", True),
        ("000-45-6789", False),
        ("666-45-6789", False),
        ("900-45-6789", False),
        ("899-45-6789", True),
        ("123-00-6789", False),
        ("123-45-0000", False),
    ],
)
def test_a_social_security_number_can_have_been_issued(text: str, expected: bool) -> None:
    assert ("pii_ssn_like" in codes(f"number {text} end")) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("93.184.216.34", True),
        ("31.13.1.1", True),
        ("31.13.1.1.", True),
        ("31.13.1.1.5", False),
        ("30.2.3.4", False),  # may be a version
        ("8.8.8.8", False),
        ("192.168.100.1", False),
        ("10.200.0.1", False),
        ("127.0.0.99", False),
    ],
)
def test_an_address_is_of_a_machine_on_the_internet(text: str, expected: bool) -> None:
    assert ("pii_ipv4" in codes(f"at {text} now")) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tel 13812345678 now", True),
        ("13812345678", True),
        ("13812345678.", True),
        ("13812345678.5", False),
        ("5 * 13812345678", False),
        ("13812345678 / 5", False),
    ],
)
def test_a_phone_number_is_no_number_of_a_sum(text: str, expected: bool) -> None:
    assert ("pii_phone_cn" in codes(text)) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"one.\nTwo", True),
        (r"\nTwo", True),
        ('print("a' + r"\nb" + '")', False),
        ("print('a" + r"\nb" + "')", False),
        ('"a" and "b' + r"\nc" + '"', False),  # the third quote opens a string
        ('"a" and b' + r"\nc", True),
        ('"a\nb' + r"\nc", True),  # the quote is on another line
        ('x\n"a\nb' + r"\nc", True),
        ('x\ny\n"b' + r"\nc", False),
        (r"don't do.\nIt", True),
        (r"\nabla f", False),
        (r"a \neq b", False),
        (r"x:\neq y", True),  # after the end of a sentence it is a line
        (r"so.\nu", True),
        (r"x1\nu", False),
        (r"a .x\nu", False),
        (r"the \n at the end", False),
        (r"the \nat the end", True),
        (r"the\n at the end", True),
        (r"a\r\nb", False),
        (r"`a\nb`", False),
        ("```\n" + r"a\nb" + "\n```", False),
        ("`x` " + r"a.\nb", True),
    ],
)
def test_a_literal_newline_is_one_outside_of_code_and_formulas(text: str, expected: bool) -> None:
    assert ("literal_backslash_n" in codes(text)) is expected


def test_a_second_occurrence_counts_if_the_first_is_proved_wrong() -> None:
    assert found("4539148803436468, 4539148803436467") == [("pii_card", "•" * 16)]


def test_occurrences_are_shown_with_twelve_characters_around_them() -> None:
    before, after = "abcdefghijklmnop", "qrstuvwxyz012345"
    text = f"{before}</p>{after}"
    assert found(text) == [("html", f"{before[-12:]}</p>{after[:12]}")]
    assert found("ab</p>cd") == [("html", "ab</p>cd")]
    assert found("一二\u200b三") == [("zero_width_or_control", r"\u4e00\u4e8c\u200b\u4e09")]
    assert found("A\n<p>  B") == [("html", "A <p> B")]


def test_personal_data_is_shown_masked_and_cut() -> None:
    text = "ab.cd@mail-host.uni-berlin.de"
    match = re.match(".*", text)
    assert match is not None
    assert shown("pii_email", text, match) == "••.••@••••-••••.•••-••••"
    assert shown("secret", text, match) == "••.••@••••-••••.•••-••••"
    assert shown("html", text, match) == "•••"
