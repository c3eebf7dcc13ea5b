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
        ("card 3782 822463 10005", True),
        ("card 3782-822463-10005", True),
        ("card 4539 1488-0343 6467", False),  # two separators
        ("for 355909190063-746.", False),
        ("card 355909190063746", False),  # JCB has 16 digits
        ("card 6212 3456 7890 1232", True),
        ("card 6212345678901265", True),
        ("card 453914880343", False),
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"f'a {b}.\nc'", False),  # a letter of Python before the string
        (r"C:\new\folder and D:\src\nginx", False),
        (r"Q:\nWhy?\nA:\nSo", True),
        (r"re.split(/\r?\n/) and [^\n]+ and [\n\t]", False),
        (r"字符串中的\n表示换行", False),
        (r"a newline (\n) ends it", False),
        (r"the first line.\nthe second line", True),
        (r"第一步：打开\n第二步：关闭", True),
        ('He "said\nit.\\n then" left', False),  # a string of two lines
        (r"\newpage \nsim", False),
    ],
)
def test_a_literal_newline_in_code_paths_and_text_about_it_is_none(
    text: str, expected: bool
) -> None:
    assert ("literal_backslash_n" in codes(text)) is expected


CHINESE = "你好，世界。今天天气很好，我们可以出去走走。"


@pytest.mark.parametrize(
    "text",
    [
        *(CHINESE.encode(one).decode(other, "replace") for one, other in [
            ("utf-8", "latin-1"), ("utf-8", "cp1252"), ("utf-8", "gbk"), ("gbk", "latin-1"),
            ("gbk", "cp1252"),
        ]),
        CHINESE.encode().decode("gbk", "ignore"),
        "你好".encode().decode("gbk", "replace"),
        "請問這個問題怎麼解決".encode().decode("gbk", "replace"),
        "正常的文字，然后" + "乱码在中间".encode().decode("latin-1") + "，继续",
        "the end of fiancÃ©”的",
        "itâ€™s", "20Â°C", "ï»¿Hello", "Bjï¿½rk", "锟斤拷锟斤拷",
    ],
)  # fmt: skip
def test_mojibake_of_each_kind_is_found(text: str) -> None:
    assert "mojibake" in codes(text)


@pytest.mark.parametrize(
    "text",
    [
        "“Ristin etelä, Akrea”中“etelä”（意为“南”）",
        "“café”的意思，法语“où”和“là”，“à”与“á”",
        "Zoë’s résumé™—naïve—and «é» 60°–70° £5½ x²–y² ½·m",
        "¿Qué? ¡Olé! „Übung“ ÄÖÜäöüß ÀÁÂÃÄÅÆÇÈÉÊË àáâãäåæçèéêëìíîï",
        "××××××× °°°°°°° ······· ¡¡¡¡¡¡",
        "涓涓细流，浣纱，锛子，璇璇，横浜と鏈",
        CHINESE,
    ],
)
def test_accents_quotation_marks_and_rare_characters_are_no_mojibake(text: str) -> None:
    assert "mojibake" not in codes(text)


def test_mojibake_is_found_behind_many_places_that_only_look_like_it() -> None:
    assert "mojibake" in codes("“é”\n" * 40 + "fiancÃ©")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((f"a{sign}b", True) for sign in "\u200b\u2060\u2062\u2066\u202e\u180e\u3164\U000e0041"),
        ("a\x1bb", True),
        ("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", False),  # England
        ("ภาษา\u200bไทย", False),
        ("ខ្មែរ\u200bខ", False),
        ("\u2067שלום\u2069", False),
        ("a\tb\nc", False),
    ],
)  # fmt: skip
def test_hidden_characters_are_those_that_no_script_or_emoji_needs(
    text: str, expected: bool
) -> None:
    assert ("zero_width_or_control" in codes(text)) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((f"to {one}.", False) for one in (
            "a.b@example.com", "jo@mail.example.co.uk", "x@foo.com", "me@bar.org", "foo@uni.de",
            "me@your-site.com", "no-reply@uni.de", "noreply@uni.de", "do_not_reply@uni.de",
            "xx@uni.de", "me@xx.com", "me@xxx.com", "logo@2x.png",
        )),
        *((f"to {one}.", True) for one in (
            "zhang.san@163.com", "jo@uni-mail.org", "12345@qq.com", "jo@barn.org", "x1@uni.de",
        )),
    ],
)  # fmt: skip
def test_addresses_of_nobody_are_no_personal_data(text: str, expected: bool) -> None:
    assert ("pii_email" in codes(text)) is expected
