"""An estimate as a table for people and as JSON for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from textwrap import fill
from typing import TYPE_CHECKING, Any

from alignment.plan.quantities import show_count, show_seconds, show_size

if TYPE_CHECKING:
    from alignment.plan.report import Change, StageReport

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
_FORMS: dict[str, str] = {"full": "full", "lora": "LoRA", "qlora": "QLoRA"}
_WIDTH = 12
_SHARDINGS: dict[str, str] = {"ddp": "DDP", "zero2": "ZeRO-2", "zero3": "ZeRO-3 / FSDP"}
_NOTE = """\
Each part is at its largest. They are not in memory all at once, so the peak is
less than their sum."""
_GPU_NOTE = """\
Estimates for GPUs are derived, not measured; those for a CPU were compared with
runs in benchmarks/plan."""


def as_text(reports: Sequence[StageReport]) -> str:
    """All stages for people."""
    notes = [_NOTE, _GPU_NOTE] if any(r.work.device == "gpu" for r in reports) else [_NOTE]
    return "\n\n".join([*map(_render_stage, reports), "\n".join(notes)])


def _render_stage(report: StageReport) -> str:
    lines = [*_head(report), "", *_forms(report)]
    if report.sharded:
        lines += ["", *_gpus(report)]
    lines += ["", *_time(report)]
    if report.changes:
        lines += [
            "",
            "  It does not fit. With these keys its peak is:",
            *map(_change, report.changes),
        ]
    return "\n".join(lines)


def _head(report: StageReport) -> list[str]:
    work, memory = report.work, report.memory
    batch = work.batch
    stage = "" if report.name == work.stage.name else f" ({work.stage.name})"
    of = f"{show_count(memory.parameters)} parameters, {show_count(memory.trained)} trained"
    precision = work.dtype + (", bfloat16 autocast" if work.autocast else "")
    checkpointing = "with" if work.checkpointing else "without"
    lines = [
        f"{report.name}{stage}: {report.model}",
        f"  {of}, {precision}",
        f"  {batch.rows} x {batch.length} tokens a batch ({report.lengths})",
        f"  {checkpointing} activation checkpointing, {work.optimizer}, on a {work.device.upper()}",
    ]
    if work.stage.samples:
        lines.insert(3, f"  {batch.rollout} answers sampled at once")
    return lines


def _forms(report: StageReport) -> list[str]:
    titles = [_FORMS[form] + "*" * (form == report.work.form) for form in report.forms]
    rows = []
    for part, title in _PARTS.items():
        sizes = [asdict(memory)[part] for memory in report.forms.values()]
        if part in _ALWAYS or any(sizes):
            rows.append((title, [show_size(size) for size in sizes]))
    rows.append(("peak", [show_size(memory.total) for memory in report.forms.values()]))
    if report.limit is not None:
        fits = ["yes" if m.total <= report.limit else "no" for m in report.forms.values()]
        rows.append((f"fits {show_size(report.limit)}", fits))
    return _table("* as in the recipe", titles, rows)


def _gpus(report: StageReport) -> list[str]:
    """The peak of each of several GPUs; the recipe's own form and launch are marked."""
    rows = []
    for form in report.forms:
        for index, (sharding, kind) in enumerate(_SHARDINGS.items()):
            if (form, sharding, report.counts[0]) not in report.sharded:
                continue
            found = [report.sharded[form, sharding, count] for count in report.counts]
            is_ours = form == report.work.form and report.launch.gpus > 1
            mark = "*" * (is_ours and sharding == report.launch.sharding)
            title = f"{'' if index else _FORMS[form]:<6} {kind}{mark}"
            rows.append((title, [show_size(m.total) + _mark(m.total, report.limit) for m in found]))
    corner = "per GPU" + (", ! does not fit" if report.limit is not None else "")
    return _table(corner, list(map(str, report.counts)), rows)


def _time(report: StageReport) -> list[str]:
    found = list(report.durations.values())
    large = any(d.flops >= 1e12 for d in found)
    unit, size = ("TFLOP", 1e12) if large else ("GFLOP", 1e9)
    rows = [
        ("steps", ["unknown" if d.steps is None else f"{d.steps:,}" for d in found]),
        ("tokens a step", [f"{d.tokens:,}" for d in found]),
        (f"{unit} a step", [f"{d.flops / size:,.1f}" for d in found]),
    ]
    if found[0].step_seconds is None:
        source = "unknown speed: give what a GPU reaches with --tflops"
    else:
        rows.append(("a step", [show_seconds(d.step_seconds) for d in found]))
        rows.append(("all steps", [show_seconds(d.seconds) for d in found]))
        source = f"at {found[0].source}"
    is_gpu = report.work.device == "gpu"
    titles = list(map(str, report.durations)) if is_gpu else ["CPU"]
    lines = _table("time on N GPUs" if is_gpu else "time", titles, rows)
    if report.work.stage.samples:
        source += (
            "\n  sampling counts as one forward; a run samples token by token, which is slower"
        )
    return [*lines, f"  {source}"]


def _change(change: Change) -> str:
    start = f"  {show_size(change.total):>10}  {'fits' if change.fits else 'no  '}  "
    pairs = change.keys.replace(" --", "\n--").replace(" ", "\0").replace("\n", " ")
    wrapped = fill(
        pairs,
        width=80,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_on_hyphens=False,
        break_long_words=False,
    )
    return wrapped.replace("\0", " ")  # a key stays with its value


def _table(corner: str, titles: list[str], rows: list[tuple[str, list[str]]]) -> list[str]:
    first = max(len(corner), *(len(title) for title, _ in rows))
    lines = [corner.ljust(first) + "".join(title.rjust(_WIDTH) for title in titles)]
    lines += [t.ljust(first) + "".join(cell.rjust(_WIDTH) for cell in cells) for t, cells in rows]
    return ["  " + line for line in lines]


def _mark(size: int, limit: int | None) -> str:
    return " !" if limit is not None and size > limit else ""


def as_values(reports: Sequence[StageReport]) -> dict[str, Any]:
    """All stages for machines; sizes in bytes."""
    return {"stages": [_stage_values(report) for report in reports]}


def _stage_values(report: StageReport) -> dict[str, Any]:
    work = report.work
    return {
        "name": report.name,
        "stage": work.stage.name,
        "model": report.model,
        "device": work.device,
        "form": work.form,
        "rows": work.batch.rows,
        "length": work.batch.length,
        "parameters": report.memory.parameters,
        "trained": report.memory.trained,
        "total": report.total,
        "limit": report.limit,
        "fits": report.fits,
        "launch": asdict(report.launch),
        "forms": {
            form: {**asdict(memory), "phases": {name: live for name, live, _ in memory.phases}}
            for form, memory in report.forms.items()
        },
        "gpus": [
            {"form": form, "sharding": sharding, "gpus": count, "total": memory.total}
            for (form, sharding, count), memory in report.sharded.items()
        ],
        "time": [{"gpus": count, **asdict(d)} for count, d in report.durations.items()],
        "changes": [asdict(change) for change in report.changes],
    }
