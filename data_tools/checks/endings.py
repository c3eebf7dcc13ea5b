"""Finds answers that break off, by their last line, without a model."""

import re

from data_tools.checks.language import language

LAST_LINE = 2000
LONG_ASCII, LONG_CHINESE = 60, 25
"""Characters from which a line without a final mark is prose, no heading or title."""
SHORT_ASCII, SHORT_CHINESE = 25, 10
"""Characters from which a line whose last word needs another one after it is prose."""
NO_PROSE = re.compile(
    r"^\s*(?:[-*+•·●◦>#|]|\(?\d{1,3}[.)、:：）]"
    r"|[（(]?[A-Za-z一二三四五六七八九十]{1,2}[.)、）])"
    r"|[=<>{}|\\^_$#]|https?:|\w\.\w{2,4}$|[:：]\s*[^:：]{0,40}$"
)
"""Lines that are no prose: items, headings, tables, formulas, code, addresses, `key: value`."""
SENTENCE = re.compile(r"[.!?][\"')\]]*\s|[。！？…]")
"""The end of a sentence before the last one: the author uses such marks."""
COMMAS = ",，、"
PAIRED = (
    ("“", "”"),
    ("(", ")"),
    ("（", "）"),
    ("《", "》"),
    ("【", "】"),
    ("「", "」"),
    ("『", "』"),
)
NEEDS_MORE = re.compile(
    r"(?i:(?:\A|[\s(\"“‘—-])(?:the|an?|my|your|his|our|their|its|whose|every|and|or|but|nor|of|to"
    r"|from|into|onto|by|for|at|on|in|(?<!help )(?<!help you )with|than|as|if|because|unless"
    r"|whether|(?<!a )while|when|which|who|where|although|whereas|between|among|during|upon"
    r"|towards?|via|per|including|is|are|was|were|am|be|been|can|could|will|would|should|may"
    r"|might|must|(?<!you )have|has|had|I|we|they|he|she|very|also|(?<!or )so"
    r"|(?:is|was|so|think|sure|fact|believe|means?|ensures?|say|says) that"
    r"|(?:but|because|if|when|which|that|where|whether|so) (?:it|you|this)"
    r"|(?:it|that|there|here|what|who|he|she|how|where|let)['’]s|\w{1,20}['’](?:ll|re|ve|d|m)))\Z"
    # one word after the end of a sentence
    r"|[a-z]{3}[.!?]['\"’”)]{0,2}\s{1,3}(?!Thank|Sorry|Yes|No\b|Cheers|Enjoy)[A-Z][a-z]{0,20}\Z"
)
"""Last words of English that another word follows: articles, most prepositions, auxiliaries."""
NEEDS_MORE_CHINESE = re.compile(
    # each character but at the end of the words that it is part of: 和 and 总和, 在 and 存在
    r"(?:(?<![别真目似类])的|或|而|且|但|把|将|于|让|很|最|其|该|这|那|之|各|每|是|(?<![总温饱缓柔平])和|(?<!参)与"
    r"|(?<![普涉埃触顾])及|(?<!合)并|(?<![存所现潜内外实自])在|(?<![服听盲顺])从|(?<!棉)被"
    r"|(?<![方导倾走取志动趋意])向|(?<![绝相不反成校配])对|(?<![自理缘])由|(?<![大天])使"
    r"|(?<![供补])给|(?<!变)更|(?<!行)为|(?<![可难予加])以|(?<!的)一[个种]|[这那]个"
    r"|因此|所以|如果|例如|比如|包括|通过|根据|按照|随着|能够|应该|必须|更加|非常|已经|正在|仍然"
    r"|首先|其次|此外|另外|然后|甚至|共有|含有|还有|拥有|所有|具有)\Z"
)
WHOLE_CHINESE = re.compile(r"(?:是|很|会|能|可以|有|非常|挺|蛮|够|比较)[^，。；！？\n]{0,30}的\Z")
"""Sentences that 的 ends: 这是可以理解的."""


def breaks_off(answer: str) -> bool:
    """Whether an answer ends inside a sentence.

    That is after a comma, in an open quotation or bracket, or with a word that needs another one.
    """
    line = _last_line(answer)
    if not line or not _is_long(line, SHORT_ASCII, SHORT_CHINESE):
        return False
    if NEEDS_MORE.search(line[-60:]):
        return True
    if NEEDS_MORE_CHINESE.search(line):
        return WHOLE_CHINESE.search(line[-60:]) is None
    # titles and names have commas and brackets too, among sentences they are rare
    return _has_sentences(answer) and (line[-1] in COMMAS or _is_open(line))


def lacks_final_mark(answer: str) -> bool:
    """Whether the last sentence of an answer has no final mark, though it is prose with marks."""
    line = _last_line(answer)
    return bool(line) and _is_long(line, LONG_ASCII, LONG_CHINESE) and _has_sentences(answer)


def _last_line(answer: str) -> str:
    """Return the last line of an answer if it is prose that ends in a letter or a comma."""
    line = answer.rstrip()[-LAST_LINE:].rsplit("\n", 1)[-1]
    if not line or not (line[-1].isalpha() or line[-1] in COMMAS):
        return ""
    # lists, code, formulas, headings, verses and signatures end without a mark too
    if NO_PROSE.search(line) or answer.count("```") or language(line) == "other":
        return ""
    return line


def _has_sentences(answer: str) -> bool:
    return SENTENCE.search(answer.rstrip()[-LAST_LINE:-1]) is not None


def _is_long(line: str, ascii_least: int, chinese_least: int) -> bool:
    return len(line) >= (ascii_least if line.isascii() else chinese_least)


def _is_open(line: str) -> bool:
    """Whether a quotation or a bracket is open at the end of a line."""
    return line.count('"') % 2 == 1 or any(
        line.rfind(opening) > line.rfind(closing) for opening, closing in PAIRED
    )
