"""Write the demo's data in common source formats.

python -m alignment.demo.generate recipes/demo/data
python -m alignment.demo.generate runs/brief/data --taste brief
"""

import argparse
import csv
import json
from collections.abc import Iterable
from pathlib import Path
from random import Random

from alignment.demo.answers import TASTES
from alignment.demo.questions import Question, split_facts
from alignment.demo.rows import (
    Row,
    draw_questions,
    instruction_rows,
    pair_rows,
    text_rows,
)

SEED = 7
TEXTS, INSTRUCTIONS, PAIRS, PROMPTS, HELD_OUT = 6000, 4800, 2400, 1800, 300


def generate(folder: Path, *, taste: str = "courteous", seed: int = SEED) -> list[Path]:
    """Write every file of the demo; equal arguments write equal bytes.

    Args:
        folder: The folder to write to; it is created if it is missing.
        taste: What the preference pairs prefer, one of `TASTES`.
        seed: Random seed.

    Returns:
        The files: text and instructions, pairs in three source formats, prompts for PPO, and
        held-out pairs and prompts about facts that the other files never mention.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train, held_out = split_facts(seed)
    asked = draw_questions(train, INSTRUCTIONS + PAIRS + PROMPTS, Random(f"{seed} questions"))
    instructions = instruction_rows(asked[:INSTRUCTIONS], Random(f"{seed} instructions"))
    rng = Random(f"{seed} {taste} pairs")
    pairs = list(pair_rows(asked[INSTRUCTIONS : INSTRUCTIONS + PAIRS], rng, taste=taste))
    third = PAIRS // 3
    unseen = draw_questions(held_out, 2 * HELD_OUT, Random(f"{seed} held out"))
    return [
        _write_lines(folder / "corpus.jsonl", text_rows(train, TEXTS, Random(f"{seed} text"))),
        _write_array(folder / "alpaca.json", instructions),
        _write_csv(folder / "huozi.csv", pairs[:third]),
        _write_array(folder / "huozi.json", _huozi(pairs[third : 2 * third])),
        _write_lines(folder / "rlhf.jsonl", pairs[2 * third :]),
        _write_lines(folder / "prompts.jsonl", map(_prompt, asked[INSTRUCTIONS + PAIRS :])),
        _write_lines(
            folder / "held_out_pairs.jsonl", pair_rows(unseen[HELD_OUT:], rng, taste=taste)
        ),
        _write_lines(folder / "held_out.jsonl", map(_with_answer, unseen[:HELD_OUT])),
    ]


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(description="Write the demo's data.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--taste", choices=TASTES, default="courteous")
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    generate(arguments.folder, taste=arguments.taste, seed=arguments.seed)


def _prompt(question: Question) -> Row:
    return {"prompt": question.prompt}


def _with_answer(question: Question) -> Row:
    """A held-out prompt with the value that the hidden rule looks for."""
    return {"prompt": question.prompt, "answer": question.value, "kind": question.kind}


def _huozi(pairs: Iterable[Row]) -> Iterable[Row]:
    for number, row in enumerate(pairs):
        yield {"id": number, "prompt": row["prompt"]} | _reject(row)


def _reject(row: Row) -> Row:
    return {"chosen": row["chosen"], "reject": row["rejected"]}


def _write_lines(path: Path, rows: Iterable[Row]) -> Path:
    return _write(path, "".join(_json(row) + "\n" for row in rows))


def _write_array(path: Path, rows: Iterable[Row]) -> Path:
    return _write(path, "[\n" + ",\n".join(map(_json, rows)) + "\n]\n")


def _write_csv(path: Path, rows: Iterable[Row]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["prompt", "chosen", "reject"])
        writer.writerows([row["prompt"], row["chosen"], row["rejected"]] for row in rows)
    return path


def _json(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False)


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


if __name__ == "__main__":
    main()
