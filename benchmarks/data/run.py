"""Speed and memory of the data path on files of any size, made of the rows of real slices.

    python benchmarks/data/run.py [--gigabytes 1] [--repeats 3] [--only convert,tokens,sets]

Writes its files under a temporary folder and deletes them. Prints the tables of README.md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SLICES = Path(os.environ.get("ALIGN_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
sys.path.insert(0, str(REPOSITORY))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="convert,tokens,sets")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; python")
    names = ("orjson", "tokenizers", "datasketch", "rapidfuzz")
    print(platform.python_version(), *(f"{name} {version(name)}" for name in names))
    parts = {"convert": convert, "tokens": tokens, "sets": sets}
    with tempfile.TemporaryDirectory(prefix="align-benchmark-") as folder:
        for part in options.only.split(","):
            parts[part](Path(folder), options.gigabytes, options.repeats)


def convert(folder: Path, gigabytes: float, repeats: int) -> None:
    """`align data convert` on an array and on lines, and what json.load alone takes."""
    print("\n| input | rows | processes | wall s | cpu s | MB/s of cpu | MB/s of wall | peak MiB |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    size = int(gigabytes * 1e9)
    for name, slice_name in (
        ("alpaca.json", "alpaca_zh.json"),
        ("pairs.jsonl", "huozi_shape.json"),
    ):
        source = folder / name
        rows = grown(source, json.loads((SLICES / "derived" / slice_name).read_text("utf-8")), size)
        megabytes = source.stat().st_size / 1e6
        for processes in (1, 2):
            command = [sys.executable, "-m", "data_tools", "convert", str(source)]
            command += ["-o", str(folder / "out.jsonl"), "--num-proc", str(processes)]
            runs = [measured(command) for _ in range(repeats)]
            wall, cpu, peak = (statistics.median(column) for column in zip(*runs, strict=True))
            print(
                f"| {name} {megabytes:,.0f} MB | {rows:,} | {processes} | {wall:.1f} | {cpu:.1f} "
                f"| {megabytes / cpu:.0f} | {megabytes / wall:.0f} | {peak:.0f} |"
            )
        if name.endswith(".json") and gigabytes <= 0.3:
            baseline = "import json, sys; json.load(open(sys.argv[1], encoding='utf-8'))"
            wall, cpu, peak = measured([sys.executable, "-c", baseline, str(source)])
            print(
                f"| json.load alone | {rows:,} | 1 | {wall:.1f} | {cpu:.1f} | "
                f"{megabytes / cpu:.0f} | {megabytes / wall:.0f} | {peak:.0f} |"
            )
        source.unlink()


def tokens(folder: Path, gigabytes: float, repeats: int) -> None:
    """The truncation check against `encode_batch_fast` on the same texts, one thread."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from support import make_tokenizer

    from data_tools.checks import Where
    from data_tools.checks.lengths import Truncation
    from data_tools.formats import Record, examples
    from data_tools.rendering import Renderer, read_tokenizer

    make_tokenizer().save_pretrained(folder)
    tokenizer = read_tokenizer(folder)
    renderer = Renderer(tokenizer)
    found = [e.record for e in examples(SLICES / "derived/huozi_shape.json")]
    records = [r for r in found if isinstance(r, Record)] * 8
    sides = [side.text for r in records for side in renderer.sequences(r).values()]

    def plain() -> None:
        for at in range(0, len(sides), 512):
            tokenizer.encoder.encode_batch_fast(sides[at : at + 512], add_special_tokens=False)

    def checked() -> None:
        truncation = Truncation(renderer, 1_000_000)
        for i, record in enumerate(records):
            truncation.add(Where("x", i), record)
        truncation.finish()

    pairs = [(cpu_of(plain), cpu_of(checked)) for _ in range(repeats)]
    ratio = statistics.median(bare / ours for bare, ours in pairs)
    bare, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"\ntruncation check: {len(records) / ours:,.0f} pairs/s, encode_batch_fast alone "
        f"{len(records) / bare:,.0f}; ratio {ratio:.2f} (median of {repeats})"
    )


def sets(folder: Path, gigabytes: float, repeats: int) -> None:
    """`validate` and `dedup` of 100,000 pairs."""
    source = folder / "hundred.jsonl"
    rows = json.loads((SLICES / "derived/huozi_shape.json").read_text("utf-8"))
    short = [row for row in rows if len(row["chosen"]) + len(row["reject"]) < 1200]
    with source.open("w", encoding="utf-8") as out:
        for i in range(100_000):
            row = short[i % len(short)]
            made = {**row, "prompt": f"{row['prompt']} {i}", "chosen": f"{row['chosen']}{i:x}"}
            out.write(json.dumps(made, ensure_ascii=False) + "\n")
    print("\n| command | wall s | cpu s | peak MiB |")
    print("|---|--:|--:|--:|")
    base = [sys.executable, "-m", "data_tools"]
    out = ["-o", str(folder / "kept.jsonl")]
    for name, command in (
        ("validate", ["validate", str(source)]),
        ("dedup", ["dedup", str(source), *out]),
        ("dedup --near 0.8", ["dedup", str(source), *out, "--near", "0.8"]),
    ):
        runs = [measured([*base, *command]) for _ in range(max(1, repeats // 3))]
        wall, cpu, peak = (statistics.median(column) for column in zip(*runs, strict=True))
        print(
            f"| {name}, 100,000 pairs ({source.stat().st_size / 1e6:.0f} MB) "
            f"| {wall:.1f} | {cpu:.1f} | {peak:.0f} |"
        )


def grown(path: Path, rows: list[dict[str, str]], size: int) -> int:
    """Write rows over and over, each with its number, until a file has `size` bytes."""
    written = count = 0
    array = path.suffix == ".json"
    with path.open("w", encoding="utf-8") as out:
        for text in numbered(rows):
            if written >= size:
                break
            before = ("[\n" if not count else ",\n") if array else ""
            out.write(before + text + ("" if array else "\n"))
            written += len(text.encode()) + 2
            count += 1
        out.write("\n]\n" if array else "")
    return count


def numbered(rows: list[dict[str, str]]) -> Iterator[str]:
    """Rows for ever, the first field numbered so that no two are the same."""
    i = 0
    while True:
        for row in rows:
            first = "instruction" if "instruction" in row else "prompt"
            yield json.dumps({**row, first: f"{row[first]} {i}"}, ensure_ascii=False)
            i += 1


def measured(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, cpu seconds and peak MiB of a command and its children."""
    begin = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, _, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def cpu_of(work: Callable[[], None]) -> float:
    """CPU seconds of a call."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
