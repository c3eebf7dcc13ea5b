"""Whole numbers from 0 to 999 in Chinese and in English words."""

HAN_DIGITS = "零一二三四五六七八九"
ONES = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
TENS = (
    "",
    "",
    "twenty",
    "thirty",
    "forty",
    "fifty",
    "sixty",
    "seventy",
    "eighty",
    "ninety",
)


def chinese(number: int) -> str:
    """Spell a number the way it is written in a Chinese sentence: 15 -> 十五, 305 -> 三百零五.

    Raises:
        ValueError: The number is outside 0..999.
    """
    _check(number)
    if number < 10:
        return HAN_DIGITS[number]
    hundreds, rest = divmod(number, 100)
    tens, ones = divmod(rest, 10)
    tail = HAN_DIGITS[ones] if ones else ""
    if not hundreds:
        return ("" if tens == 1 else HAN_DIGITS[tens]) + "十" + tail
    head = HAN_DIGITS[hundreds] + "百"
    if tens:
        return head + HAN_DIGITS[tens] + "十" + tail
    return head + ("零" + tail if ones else "")


def english(number: int) -> str:
    """Spell a number in English words: 58 -> fifty-eight, 305 -> three hundred five.

    Raises:
        ValueError: The number is outside 0..999.
    """
    _check(number)
    if number < 20:
        return ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens] + (f"-{ONES[ones]}" if ones else "")
    hundreds, rest = divmod(number, 100)
    return f"{ONES[hundreds]} hundred" + (f" {english(rest)}" if rest else "")


def _check(number: int) -> None:
    if not 0 <= number <= 999:
        raise ValueError(f"{number} is outside 0..999")
