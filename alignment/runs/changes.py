"""The differences between the record of a run and the settings, data and parents of a new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.runs.record import Parent, Run, Source, decides
from alignment.secrets import redact

if TYPE_CHECKING:
    from alignment.settings.resolve import Settings


def changes_since(
    run: Run,
    *,
    settings: Settings,
    inputs: Mapping[str, list[Source]],
    parents: Mapping[str, Parent],
) -> Iterator[str]:
    """Describe each change that affects the result: of parents, then of data, then of settings.

    Args:
        run: The record.
        settings: The new settings; a key that is no longer given counts with its default.
        inputs: The new data, by role.
        parents: The new parents, by role.
    """
    for role in sorted({*parents, *run.parents}):
        old, new = run.parents.get(role), parents.get(role)
        if (old and old.fingerprint) != (new and new.fingerprint):
            yield f"its {role.replace('_', ' ')} changed"
    for role in sorted({*inputs, *run.inputs}):
        before = {source.content: source.path for source in run.inputs.get(role, [])}
        after = {source.content: source.path for source in inputs.get(role, [])}
        differing = {**before, **after}.items()  # by content: a moved file is the same file
        names = sorted({Path(p).name for sha, p in differing if (sha in before) != (sha in after)})
        if names:
            yield f"{role} data changed: {', '.join(names)}"
        elif list(before) != list(after):
            yield f"{role} data changed: another order"
    for key in sorted({*run.settings, *settings.sources}):
        default = settings.schema[key].default if key in settings.schema else None
        old_value = run.settings.get(key, {"value": default})["value"]
        new_value = redact(key, settings.values.get(key))  # as the record holds it
        if decides(key) and old_value != new_value:
            yield f"{key} {old_value} -> {new_value}"
