"""How long training takes to start, and what it holds in memory, by the number of rows.

    python benchmarks/data/start.py --rows 10000 200000 1000000 --trl 10000 200000

Runs `align sft` twice (an empty cache, then a full one) and `trl sft` on the same rows of about
500 bytes and the same tiny model, one optimizer step each, and prints for each: seconds of the
whole command, and the peak of anonymous resident memory (RssAnon: what the process itself holds,
without files that are mapped from disk).
"""

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

WORDS = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 200_000, 1_000_000])
    parser.add_argument("--trl", type=int, nargs="*", default=[10_000, 200_000])
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--output", type=Path, default=None)
    what = "only compare the pass over ROWS with the tokenizer alone"
    parser.add_argument("--ratio", type=int, default=0, metavar="ROWS", help=what)
    options = parser.parse_args()
    if options.ratio:
        return compare_with_tokenizer(options.ratio, max(3, options.repeat))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = place / "model"
        run([sys.executable, "-m", "alignment", "init-model", "tiny", str(model)], place)
        for rows in options.rows:
            data = write_rows(place / f"{rows}.jsonl", rows)
            for turn in range(options.repeat):
                found += measure(rows, data, model, place, with_trl=rows in options.trl, turn=turn)
            data.unlink()
    machine = (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        + (", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl")))
    )
    print(machine)
    if options.output:
        options.output.write_text(json.dumps({"machine": machine, "runs": found}, indent=1) + "\n")


def compare_with_tokenizer(rows: int, repeat: int) -> None:
    """Print the speed of the whole pass beside `encode_batch_fast` on the same texts, in turn.

    The tokenizer has one thread in both (RAYON_NUM_THREADS=1).
    """
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run([sys.executable, "-m", "alignment", "init-model", "tiny", str(place / "model")], place)
        data = write_rows(place / "rows.jsonl", rows)
        for _ in range(repeat):
            done = subprocess.run(
                [sys.executable, "-c", COMPARE, str(place / "model"), str(data)],
                env={**os.environ, "ALIGN_CACHE": str(place / "cache"), "RAYON_NUM_THREADS": "1"},
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            shutil.rmtree(place / "cache")
            figures = json.loads(done.stdout.splitlines()[-1])
            ratios.append(figures["alone_s"] / figures["pass_s"])
            print(f"{rows:,} rows: {figures}", flush=True)
    print(f"median ratio {sorted(ratios)[len(ratios) // 2]:.2f}")


COMPARE = """
import json, sys, time
from alignment.data.rows import prepare_stage
from alignment.registry import STAGES
from alignment.settings.resolve import resolve
from data_tools.rendering import read_tokenizer

model, data = sys.argv[1:]
words = ["--model_name_or_path", model, "--train_data", data, "--report_to", "none"]
values = resolve("sft", words).values
started = time.perf_counter()
rows = prepare_stage(STAGES["sft"], values)
passed = time.perf_counter() - started
texts = []
for line in open(data, encoding="utf-8"):
    row = json.loads(line)
    turns = row["prompt"] + row["completion"]
    texts.append("".join(f"<|im_start|>{t['role']}\\n{t['content']}<|im_end|>\\n" for t in turns))
encoder = read_tokenizer(model).encoder
started = time.perf_counter()
tokens = sum(len(one.ids) for one in encoder.encode_batch_fast(texts, add_special_tokens=False))
alone = time.perf_counter() - started
print(json.dumps({"pass_s": round(passed, 2), "alone_s": round(alone, 2), "tokens": tokens}))
"""


def write_rows(path: Path, count: int) -> Path:
    """Write `prompt, completion` messages of about 500 bytes a row."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            asked = f"{number} " + " ".join(draw.choices(WORDS, k=20))
            answer = " ".join(draw.choices(WORDS, k=45))
            row = {
                "prompt": [{"role": "user", "content": asked[:110]}],
                "completion": [{"role": "assistant", "content": answer[:270]}],
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def measure(
    rows: int, data: Path, model: Path, place: Path, *, with_trl: bool, turn: int
) -> list[dict[str, object]]:
    """One row count: the first start, the second, and TRL's."""
    shared = [
        "--model_name_or_path", str(model), "--max_steps", "1", "--per_device_train_batch_size",
        "4", "--report_to", "none", "--save_strategy", "no", "--max_length", "512", "--use_cpu",
        "true", "--bf16", "false",
    ]  # fmt: skip
    cache = place / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    ours = [sys.executable, "-m", "alignment", "sft", *shared, "--train_data", str(data)]
    ours += ["--overwrite", "--output_dir", str(place / "out")]
    theirs = [sys.executable, "-c", "from trl.cli import main; main()", "sft", *shared]
    theirs += ["--dataset_name", str(place / "trl"), "--output_dir", str(place / "out-trl")]
    found = []
    for name, words in (("align, first start", ours), ("align, second start", ours)):
        found.append(report(rows, name, run(words, place), turn))
    if with_trl:
        (place / "trl").mkdir(exist_ok=True)
        shutil.copy(data, place / "trl" / "train.jsonl")
        found.append(report(rows, "trl sft", run(theirs, place), turn))
        shutil.rmtree(place / "trl")
        shutil.rmtree(place / "datasets", ignore_errors=True)
    return found


def report(rows: int, name: str, figures: tuple[float, float], turn: int) -> dict[str, object]:
    seconds, peak = figures
    print(f"{rows:>9,} rows  {name:<20} {seconds:7.1f} s  {peak:7.0f} MB anonymous", flush=True)
    return {"rows": rows, "name": name, "turn": turn, "seconds": round(seconds, 1),
            "anonymous_mb": round(peak)}  # fmt: skip


def run(words: list[str], place: Path) -> tuple[float, float]:
    """Seconds of a command, and the peak of its anonymous memory in MB, with its children."""
    environment = {
        **os.environ, "ALIGN_CACHE": str(place / "cache"), "HF_DATASETS_CACHE":
        str(place / "datasets"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    started = time.perf_counter()
    with (place / "log.txt").open("w") as log:
        child = subprocess.Popen(words, env=environment, cwd=place, stdout=log, stderr=log)
        peak = 0.0
        while child.poll() is None:
            peak = max(peak, anonymous(child.pid))
            time.sleep(0.05)
    if child.returncode:
        sys.exit((place / "log.txt").read_text()[-3000:])
    return time.perf_counter() - started, peak


def anonymous(pid: int) -> float:
    """MB of anonymous memory of a process and its children; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    own = next((line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")), 0)
    return int(own) / 1024 + sum(anonymous(int(child)) for child in children)


if __name__ == "__main__":
    main()
