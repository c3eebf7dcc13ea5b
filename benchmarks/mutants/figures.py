"""Print, for each file, how many changed versions of it the tests caught, after `mutmut run`."""

import subprocess
import sys
from collections import Counter, defaultdict

COLUMNS = ("killed", "timeout", "survived", "no tests", "not checked")


def main() -> None:
    """Group what `mutmut results` prints, one line a change, by module."""
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", "results", "--all", "true"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for line in done.stdout.splitlines():
        name, _, status = line.strip().rpartition(": ")
        found[name.rpartition(".")[0]][status] += 1
    print("| module | caught of tested | " + " | ".join(COLUMNS) + " |")
    print("|---|---" + "|---:" * len(COLUMNS) + "|")
    for module, counts in [*sorted(found.items()), ("all", sum(found.values(), Counter()))]:
        caught = counts["killed"] + counts["timeout"]
        tested = caught + counts["survived"]
        share = f"{caught} of {tested} ({caught / tested:.0%})" if tested else "-"
        cells = " | ".join(str(counts[column]) for column in COLUMNS)
        print(f"| `{module}` | {share} | {cells} |")


if __name__ == "__main__":
    main()
