"""Finds the licence of a source in its data card, or by the family of data sets it belongs to.

A licence that neither names is reported as unknown, never guessed.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

CARD = re.compile(r"\A---\s*\n(?:.*\n)*?license:\s*['\"]?([\w.-]+)", re.IGNORECASE)
RESTRICTED = re.compile(r"(?i)\bnc\b|non-?commercial|research only|no licence")


class Licence(NamedTuple):
    """The licence of a source.

    Attributes:
        name: Its name, and what restricts it.
        family: The data set or the card that states it.
    """

    name: str
    family: str

    @property
    def restricted(self) -> bool:
        """Whether it forbids commercial use or grants nothing at all."""
        return RESTRICTED.search(self.name.replace("-", " ")) is not None

    def __str__(self) -> str:
        return f"{self.name} ({self.family})"


FAMILIES: tuple[tuple[str, Licence], ...] = (
    (
        r"alpaca[-_]gpt4|gpt4[-_]?llm|comparison_data_v2|shibing624/alpaca-zh",
        Licence("CC BY-NC 4.0, research only, whatever a copy's card says", "GPT-4-LLM"),
    ),
    (r"stanford[-_]alpaca|tatsu-lab/alpaca", Licence("CC BY-NC 4.0", "Stanford Alpaca")),
    (r"belle|train_\d+(?:\.\d+)?m_cn", Licence("research only", "BELLE")),
    (r"huozi", Licence("Apache-2.0", "huozi")),
    (
        r"rlhf[-_]reward[-_]single[-_]round",
        Licence("no licence stated", "rlhf-reward-single-round"),
    ),
    (r"hh[-_]rlhf|hh[-_](?:harmless|helpful)", Licence("MIT", "Anthropic HH-RLHF")),
    (r"pku[-_]saferlhf|beavertails", Licence("CC BY-NC 4.0", "PKU-SafeRLHF")),
    (r"helpsteer", Licence("CC BY 4.0", "HelpSteer")),
    (r"oasst|oaast|oa_[a-z]{2}_", Licence("Apache-2.0", "OpenAssistant")),
    (r"ultrafeedback", Licence("MIT", "UltraFeedback")),
    (r"stack[-_]exchange", Licence("CC BY-SA 4.0", "Stack Exchange")),
    (r"(?:dpo|kto|v1_dpo)(?:_(?:zh|en))?_demo", Licence("Apache-2.0", "LLaMA-Factory")),
    (r"mt[-_]bench", Licence("Apache-2.0", "MT-Bench")),
)
"""Patterns of names, each with the licence of its family; the first that matches counts."""
OF_FORMAT = {
    "pku-saferlhf": "pku_saferlhf",
    "pku-saferlhf-safer": "pku_saferlhf",
    "pku-saferlhf-both": "pku_saferlhf",
    "helpsteer": "helpsteer",
    "helpsteer2-preference": "helpsteer",
    "helpsteer3": "helpsteer",
    "oasst-tree": "oasst",
    "oasst-flat": "oasst",
    "ultrafeedback": "ultrafeedback",
    "gpt4llm": "gpt4llm",
}
"""Formats that only one data set has, and a name that its pattern matches."""
_PATTERNS = tuple((re.compile(pattern, re.IGNORECASE), licence) for pattern, licence in FAMILIES)


def licences_of(source: str | Path, names: Iterable[str] = ()) -> list[Licence]:
    """Return the licences of a source by its card, its name, and names that its rows give.

    Args:
        source: The file or the hub name.
        names: The formats of its rows, and the values of their `source` column.
    """
    found: dict[Licence, None] = {}
    path = Path(source)
    if card := _card(path):
        found[card] = None
    hub = "/".join(path.parts[-2:])  # owner/name, or the folder and the file
    for name in (hub, *(OF_FORMAT.get(name, name) for name in names)):
        for pattern, licence in _PATTERNS:
            if pattern.search(name):
                found[licence] = None
                # the first pattern that matches: later ones are more general
                break
    return list(found)


def _card(path: Path) -> Licence | None:
    """Return the licence in the front matter of a data card next to the file."""
    card = path.parent / "README.md"
    if not path.is_file() or not card.is_file():
        return None
    with card.open(encoding="utf-8", errors="replace") as text:
        stated = CARD.match(text.read(20_000).split("\n---", 1)[0] + "\n")
    return Licence(stated[1], f"card {card.name} next to it") if stated else None
