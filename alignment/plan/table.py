"""An estimate as a table for people and as JSON for machines."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from alignment.plan.advice import Change
from alignment.plan.duration import Duration
from alignment.plan.memory import SHARDINGS, Memory
from alignment.plan.report import StageReport

_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "kv_cache": "KV cache",
    "reference": "reference",
    "critic": "critic",
    "rewards": "reward models",
    "context": "CUDA context",
}
_ALWAYS = ("weights", "gradients", "optimizer", "activations")
_WIDTH = 12


def render(reports: Sequence[StageReport]) -> str:
    """All stages as text."""
    notes = [
        "parts at their largest; they do not all stand at once, so the peak is under their sum",
        "GPU figures are estimates that rest on the CPU's measurements: benchmarks/plan",
    ]
    on_gpu = any(report.device == "gpu" for report in reports)
    return "\n\n".join([*map(_render_stage, reports), "\n".join(notes[: 1 + on_gpu])])


def _render_stage(report: StageReport) -> str:
    lines = [*_head(report), "", *_forms(report)]
    if report.sharded:
        lines += ["", *_gpus(report)]
    lines += ["", *_time(report)]
    if report.changes:
        lines += ["", "it does not fit; what would change that:", *map(_change, report.changes)]
    return "\n".join(lines)


def _head(report: StageReport) -> list[str]:
    work, memory = report.work, report.memory
    batch = work.batch
    of = f"{memory.parameters / 1e6:,.1f} M parameters, {memory.trained / 1e6:,.1f} M trained"
    precision = work.dtype + (", bfloat16 autocast" if work.autocast else "")
    each = f"{batch.rows} x {batch.length} tokens a batch ({report.lengths})"
    if work.stage == "ppo":
        each += f", {batch.rollout} answers sampled at once"
    checkpointing = "with" if work.checkpointing else "without"
    return [
        f"{report.name} ({work.stage}): {report.model}, {of}",
        f"  {each}",
        f"  {precision}, {checkpointing} activation checkpointing, {work.optimizer}, on a "
        f"{report.device}",
    ]


def _forms(report: StageReport) -> list[str]:
    words = {"full": "full", "lora": "LoRA", "qlora": "QLoRA"}
    titles = [words[form] + ("*" if form == report.work.form else "") for form in report.forms]
    rows = []
    for part, title in _PARTS.items():
        sizes = [asdict(memory)[part] for memory in report.forms.values()]
        if part in _ALWAYS or any(sizes):
            rows.append((title, [_size(size) for size in sizes]))
    totals = [_size(memory.total) for memory in report.forms.values()]
    rows.append(("peak", totals))
    fits = [_fits(memory, report.limit) for memory in report.forms.values()]
    rows.append((_limit(report.limit), fits))
    return _table("* the recipe's", titles, rows)


def _gpus(report: StageReport) -> list[str]:
    titles = [str(count) for count in report.counts]
    rows = []
    for sharding, title in SHARDINGS.items():
        found = [report.sharded[sharding, count] for count in report.counts]
        rows.append((title, [_size(m.total) + _mark(m, report.limit) for m in found]))
    return _table("each of N GPUs", titles, rows)


def _time(report: StageReport) -> list[str]:
    lines = []
    for count, duration in report.durations.items():
        steps = "steps unknown" if duration.steps is None else f"{duration.steps:,} steps"
        on = "" if len(report.durations) == 1 else f"{count} GPU{'s' * (count > 1)}: "
        each = f"{duration.tokens:,} tokens and {_operations(duration.flops)}"
        lines.append(f"time: {on}{steps} of {each}: {_seconds(duration)}")
    if report.work.stage == "ppo":
        lines.append(
            "  sampling counts as a forward; token by token it is slower, by how much varies"
        )
    return lines


def _change(change: Change) -> str:
    return f"  {_size(change.total):>10}  {'fits' if change.fits else 'no  '}  {change.keys}"


def _table(corner: str, titles: list[str], rows: list[tuple[str, list[str]]]) -> list[str]:
    first = max(len(corner), *(len(title) for title, _ in rows)) + 2
    lines = [corner.ljust(first) + "".join(title.rjust(_WIDTH) for title in titles)]
    lines += [t.ljust(first) + "".join(cell.rjust(_WIDTH) for cell in cells) for t, cells in rows]
    return ["  " + line for line in lines]


def _size(size: int) -> str:
    if size < 2**30:
        return f"{size / 2**20:,.0f} MiB" if size else "-"
    return f"{size / 2**30:,.1f} GiB"


def _limit(limit: int | None) -> str:
    return "fits" if limit is None else f"fits {_size(limit)}"


def _fits(memory: Memory, limit: int | None) -> str:
    if limit is None:
        return "unknown"
    return "yes" if memory.total <= limit else "no"


def _mark(memory: Memory, limit: int | None) -> str:
    return " !" if limit is not None and memory.total > limit else ""


def _seconds(duration: Duration) -> str:
    seconds = duration.step_seconds if duration.seconds is None else duration.seconds
    if seconds is None:
        return "how long is unknown; give --tflops, what a device reaches"
    unit, size = next(
        ((u, n) for u, n in (("days", 86400), ("h", 3600), ("min", 60)) if seconds >= 2 * n),
        ("s", 1),
    )
    each = " a step" if duration.seconds is None else ""
    return f"about {seconds / size:,.1f} {unit}{each} (at {duration.source})"


def _operations(flops: float) -> str:
    unit, size = ("TFLOP", 1e12) if flops >= 1e12 else ("GFLOP", 1e9)
    return f"{flops / size:,.1f} {unit}"


def as_json(reports: Sequence[StageReport]) -> dict[str, Any]:
    """All stages for machines; sizes in bytes."""
    return {"stages": [_stage_json(report) for report in reports]}


def _stage_json(report: StageReport) -> dict[str, Any]:
    work = report.work
    return {
        "name": report.name,
        "stage": work.stage,
        "model": report.model,
        "device": report.device,
        "form": work.form,
        "rows": work.batch.rows,
        "length": work.batch.length,
        "parameters": report.memory.parameters,
        "trained": report.memory.trained,
        "total": report.memory.total,
        "limit": report.limit,
        "fits": None if report.limit is None else report.memory.total <= report.limit,
        "forms": {form: _memory_json(memory) for form, memory in report.forms.items()},
        "gpus": [
            {"gpus": count, "sharding": sharding, "total": memory.total}
            for (sharding, count), memory in report.sharded.items()
        ],
        "time": [{"gpus": count, **asdict(d)} for count, d in report.durations.items()],
        "changes": [asdict(change) for change in report.changes],
    }


def _memory_json(memory: Memory) -> dict[str, Any]:
    found = asdict(memory)
    found["phases"] = {name: live for name, live, _ in memory.phases}
    return found
