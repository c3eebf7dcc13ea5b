"""Plan and run a pipeline: each stage in its own process, skipped if it is up to date.

A process per stage frees its memory at its end, can be started by a launcher, and cannot damage
earlier results if it crashes. The fingerprint of a step's run is known before it starts, so the
records show which steps a change affects.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from alignment.data.rows import Start, prepare_stage
from alignment.data.sources import check_sources, digest_inputs
from alignment.errors import ConfigError
from alignment.models.parents import identify_parents
from alignment.pipeline.child import run_child
from alignment.pipeline.functions import check_functions
from alignment.pipeline.launch import command, take_launch_words
from alignment.registry import ROLES, STAGES
from alignment.runs import (
    Parent,
    Run,
    changed_outputs,
    changes_since,
    checkpoints,
    delete_previous_runs,
    fingerprint,
    identify,
    load_run,
    locked,
    previous_runs,
)
from alignment.secrets import redact_words
from alignment.settings.resolve import Settings, did_you_mean, resolve

if TYPE_CHECKING:
    from alignment.pipeline.file import Pipeline, Step


@dataclass(frozen=True, slots=True)
class Plan:
    """The action for one step (run, resume, skip or leave) and its reason."""

    step: Step
    action: str
    reason: str
    argv: tuple[str, ...]
    settings: Settings

    @property
    def pasteable(self) -> str:
        """The command as a user would type it, without secrets."""
        return shlex.join(["align", self.step.stage, *redact_words(self.argv)])


def run_pipeline(plans: Sequence[Plan]) -> int:
    """Run the planned steps in order; return the exit code of the first that fails, else 0.

    Raises:
        DataError: A row of any stage cannot be used; no stage was started.
    """
    to_run = [plan for plan in plans if plan.action in ("run", "resume")]
    rewards = [r for plan in to_run for r in plan.settings.values.get("reward_model") or []]
    if code := check_functions(rewards):
        return code
    _prepare_rows(plans)
    for number, plan in enumerate(plans, 1):
        click.echo(f"[{number}/{len(plans)}] {plan.step.name}: {plan.action} ({plan.reason})")
        if plan.action == "skip" and previous_runs(plan.step.folder):
            with locked(plan.step.folder):  # a killed run may have left them
                delete_previous_runs(plan.step.folder)
        if plan.action not in ("run", "resume"):
            continue
        click.echo(f"  {plan.pasteable}")
        if plan.settings.values["trust_remote_code"]:
            place = plan.settings.source("trust_remote_code")
            click.echo(f"  trust_remote_code: code of its models will run ({place})", err=True)
        code = run_child(command(plan.step.stage, list(plan.argv)))
        if code != 0:
            click.echo(
                f"{plan.step.name} ended with exit code {code}; earlier results are kept, "
                "and the same command continues from here",
                err=True,
            )
            return code
    return 0


def _prepare_rows(plans: Sequence[Plan]) -> None:
    """Prepare the rows of all stages before the first one trains; the stages map them from disk.

    The tokenizer of a stage that starts from an earlier one is not written yet, but known: it is
    that of the earlier stage with the changes of its recipe.
    """
    handed_on: dict[str, Start] = {}
    for plan in plans:
        if plan.action in ("run", "resume"):
            values = plan.settings.values
            start = handed_on.get(str(values["model_name_or_path"]))
            rows = prepare_stage(STAGES[plan.step.stage], values, start)
            handed_on[str(plan.step.folder)] = rows.start


def plan_pipeline(
    pipeline: Pipeline, *, only: Sequence[str] = (), start: str | None = None, force: bool = False
) -> list[Plan]:
    """Decide for each step whether it must run.

    Raises:
        ConfigError: A setting of any step, or a name in ``only`` or ``start``, is wrong.
        DataError: A data file is missing.
    """
    chosen = _chosen(pipeline, only, start)
    planned: dict[str, str] = {}
    plans = []
    # Without a record to compare with, the data need not be read for its digest: the stages do so.
    is_new = not any(load_run(step.folder) for step in pipeline.steps)
    for step in pipeline.steps:
        if is_new and step.name in chosen:
            plan, mark = _first_plan(pipeline, step, planned)
        else:
            plan, mark = _plan(pipeline, step, planned, chosen=step.name in chosen, force=force)
        planned[step.name] = mark
        plans.append(plan)
    return plans


def _first_plan(pipeline: Pipeline, step: Step, planned: dict[str, str]) -> tuple[Plan, str]:
    """The plan of a step in a pipeline of which nothing was run yet."""
    argv = _argv(pipeline, step)
    settings = resolve(step.stage, take_launch_words(argv)[1])
    check_sources(settings.values)
    _parents(pipeline, step, planned, settings)
    return Plan(step, "run", "not run yet", tuple(argv), settings), "not run yet"


def _plan(
    pipeline: Pipeline, step: Step, planned: dict[str, str], *, chosen: bool, force: bool
) -> tuple[Plan, str]:
    """The plan of a step and the fingerprint that its run has or will have."""
    argv = _argv(pipeline, step)
    settings = resolve(step.stage, take_launch_words(argv)[1])
    found = load_run(step.folder)
    if not chosen:
        return _leave(step, found, argv, settings)
    inputs = digest_inputs(settings.values)
    parents = _parents(pipeline, step, planned, settings)
    mark = fingerprint(step.stage, settings=settings.values, inputs=inputs, parents=parents)
    if found is None:
        return Plan(step, "run", "not run yet", tuple(argv), settings), mark
    found_changes = changes_since(found, settings=settings, inputs=inputs, parents=parents)
    reason = "; ".join(found_changes) or "a default of TRL or of align changed"
    if found.fingerprint == mark and not force:
        if found.status == "finished":
            is_now = identify(str(step.folder)).fingerprint
            # it differs if files were changed; only then are they read again, to name them
            changed = changed_outputs(step.folder, found.outputs) if is_now != mark else []
            since = f", but changed since: {', '.join(changed)}" if changed else ""
            return Plan(step, "skip", f"up to date{since}", tuple(argv), settings), is_now
        if checkpoints(step.folder):
            return Plan(step, "resume", found.status, (*argv, "--resume"), settings), mark
        reason = f"{found.status} before its first checkpoint"
    reason = "forced" if force and found.fingerprint == mark else reason
    return Plan(step, "run", reason, (*argv, "--overwrite"), settings), mark


def _leave(step: Step, found: Run | None, argv: list[str], settings: Settings) -> tuple[Plan, str]:
    """The plan of a step that was not selected; later steps use its existing run."""
    status = f"{found.status} before" if found else "not run yet"
    mark = identify(str(step.folder)).fingerprint if found else "missing"
    return Plan(step, "leave", f"not asked for, {status}", tuple(argv), settings), mark


def _argv(pipeline: Pipeline, step: Step) -> list[str]:
    roles = [
        word
        for role, needed in step.needs.items()
        for word in (f"--{ROLES[role]}", str(pipeline.folder / needed))
    ]
    place = ["--output_dir", str(step.folder), "--run_group", pipeline.name]
    return [*step.recipes, *step.flags, *roles, *place]


def _parents(
    pipeline: Pipeline, step: Step, planned: dict[str, str], settings: Settings
) -> dict[str, Parent]:
    """The parents that the run will record, with the planned fingerprints of earlier steps."""
    stages = {other.name: other.stage for other in pipeline.steps}
    ours = {
        role: Parent(str(pipeline.folder / needed), planned[needed], stages[needed])
        for role, needed in step.needs.items()
    }
    others = identify_parents(step.stage, settings.values, skip=tuple(ours))
    return ours | others


def _chosen(pipeline: Pipeline, only: Sequence[str], start: str | None) -> set[str]:
    names = [step.name for step in pipeline.steps]
    for name in (*only, *([start] if start else [])):
        if name not in names:
            hint = did_you_mean(name, names) or f"its stages are {', '.join(names)}"
            raise ConfigError(f"no stage '{name}' in this pipeline", hint)
    if only:
        return set(only)
    return set(names[names.index(start) :]) if start else set(names)
