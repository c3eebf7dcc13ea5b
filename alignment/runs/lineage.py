"""The runs under a folder as a tree: each run below the one whose model it started from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alignment.runs.files import RECORD, run_folder
from alignment.runs.record import Run, load_run

#: The metric that a run is shown with: the first of these that its record holds.
_HEADLINES = ("eval_accuracy", "objective/score", "rewards/accuracies", "eval_loss", "train_loss")


@dataclass(frozen=True, slots=True)
class Node:
    """A run, its folder, and the runs that started from its model."""

    folder: Path
    run: Run
    children: tuple[Node, ...]


def find_runs(root: Path) -> list[Node]:
    """The runs under a folder as a forest, oldest first."""
    runs = {
        path.parent.resolve(): run
        for path in sorted(root.rglob(RECORD))
        if (run := load_run(path.parent)) is not None
    }
    return list(_below(None, dict(sorted(runs.items(), key=lambda item: item[1].started))))


def _below(parent: Path | None, runs: dict[Path, Run]) -> Iterator[Node]:
    for folder, run in runs.items():
        if _parent_folder(run, runs) == parent:
            yield Node(folder, run, tuple(_below(folder, runs)))


def _parent_folder(run: Run, runs: dict[Path, Run]) -> Path | None:
    if "model" not in run.parents:
        return None
    folder = run_folder(Path(run.parents["model"].path).resolve())
    return folder if folder in runs else None


def describe_run(node: Node, root: Path) -> str:
    """One line: stage, folder, status, headline metric, fingerprint, other parents."""
    run = node.run
    folder = (
        node.folder.relative_to(root.resolve()) if node.folder != root.resolve() else node.folder
    )
    headline = next((key for key in _HEADLINES if run.metrics.get(key) is not None), None)
    parts = [f"{run.stage}  {folder}  {run.status}"]
    if headline:
        parts.append(f"{headline} {run.metrics[headline]:.4g}")
    parts.append(run.fingerprint)
    parts += [
        f"{role} {Path(parent.path).name} {parent.fingerprint[:8]}"
        for role, parent in run.parents.items()
        if role != "model"
    ]
    return "  ·  ".join(parts)
