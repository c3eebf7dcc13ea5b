"""How what is asked for differs from what a run's record says, in words."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from alignment.runs.record import Parent, Run, Source, decides
from alignment.secrets import redact
from alignment.settings.resolve import Settings


def changes(
    run: Run,
    *,
    settings: Settings,
    inputs: Mapping[str, list[Source]],
    parents: Mapping[str, Parent],
) -> Iterator[str]:
    """One phrase for each deciding thing that changed: parents first, then data, then settings."""
    for role in sorted({*parents, *run.parents}):
        old, new = run.parents.get(role), parents.get(role)
        if (old and old.fingerprint) != (new and new.fingerprint):
            yield f"its {role.replace('_', ' ')} changed"
    for role in sorted({*inputs, *run.inputs}):
        before = {source.sha256: source.path for source in run.inputs.get(role, [])}
        after = {source.sha256: source.path for source in inputs.get(role, [])}
        moved = {**before, **after}.items()
        names = sorted({Path(p).name for sha, p in moved if (sha in before) != (sha in after)})
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
