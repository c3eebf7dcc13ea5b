"""Prints the results of the commands as tables, examples and coloured tokens, or writes JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from data_tools.checks import CHECKS, SEVERITIES, visible
from data_tools.checks.validate import EXAMPLES, Located, Report, validate
from data_tools.convert.output import json_line, short_names, table, written_whole
from data_tools.formats import Pairing, Unusable, row_error
from data_tools.stats.show import Side, Token, example_at, flaws, plain_parts, sides

if TYPE_CHECKING:
    from data_tools.rendering import Renderer

Options = Mapping[str, Any]
COLOURS = {"error": "red", "warn": "yellow", "info": "blue"}


def run_validate(sources: Sequence[str], options: Options) -> Report:
    """Validate sources, and write the files that the options name."""
    found: list[Located] = []
    each = found.append if options["findings"] else None
    report = validate(
        sources,
        **options["read"],
        model=_model(options),
        max_length=options["max_length"],
        pairing=_pairing(options),
        each=each,
    )
    if options["report"]:
        _write_json(options["report"], report.as_json())
    if options["findings"]:
        with written_whole(options["findings"]) as out:
            for one in found:
                out.write(json_line(one.as_json()))
    return report


def print_report(report: Report) -> None:
    """Print the codes, worst first, with examples; then length bias, refusals and licences."""
    names = short_names(report.inputs)
    rows, records = sum(report.rows.values()), sum(report.records.values())
    click.echo(f"{rows:,} rows, {records:,} records in {len(report.inputs)} file(s)")
    for source, encoding in report.encodings.items():
        click.echo(f"encoding: {encoding} of {names[source]}")
    _print_codes(report, names)
    for source, bias in report.bias.items():
        if bias["pairs"]:
            low, high = bias["interval"]
            shown = f"{bias['chosen_longer']:.2f} ({low:.2f} to {high:.2f})"
            click.echo(f"chosen longer: {shown} in {names[source]}")
            shares = report.shortcuts[source]["refusals"]
            shown = f"{shares['chosen']:.1%} of chosen, {shares['rejected']:.1%} of rejected"
            click.echo(f"refusals: {shown} in {names[source]}")
    for (source, name), count in sorted(report.unused.items()):
        click.echo(f"not used: {name!r}, in {count:,} rows of {names[source]}")
    for source, licences in report.licences.items():
        click.echo(f"licence: {'; '.join(licences) or 'unknown'} for {names[source]}")
    if report.not_compared:
        skipped = f"{report.not_compared:,} rows were not looked at"
        click.echo(f"near repeats: {skipped}; `align data dedup --near 0.9` compares all")
    if not report.totals:
        click.echo("nothing found")


def _print_codes(report: Report, names: Mapping[str, str]) -> None:
    """Print each code with its count, its share of all rows, and some places."""
    totals = report.totals
    for severity in reversed(SEVERITIES):
        for code in sorted(code for code in totals if CHECKS[code].severity == severity):
            name = click.style(f"{severity:<5}", fg=COLOURS[severity])
            share = f"{report.share(code):6.1%}"
            click.echo(f"{name} {totals[code]:>8,} {share}  {code}: {CHECKS[code].meaning}")
            for one in report.examples[code]:
                where = one.where._replace(source=names.get(one.where.source, one.where.source))
                details = " ".join(part for part in (one.finding.part, one.finding.found) if part)
                click.echo(f"        {where}{': ' if details else ''}{details}")


def run_stats(sources: Sequence[str], options: Options) -> str:
    """Measure sources, write the files that the options name, and return the table."""
    from data_tools.stats.charts import overview, write_page
    from data_tools.stats.measure import stats

    found = stats(
        sources,
        **options["read"],
        model=_model(options),
        max_length=options["max_length"],
        pairing=_pairing(options),
    )
    if options["page"]:
        write_page(options["page"], found)
    if options["report"]:
        _write_json(options["report"], [one.as_json() for one in found])
    lines = [table(overview(found))]
    names = short_names(one.source for one in found)
    for one in found:
        name = names[one.source]
        lines.append(f"{name}: licence {'; '.join(one.licences) or 'unknown'}")
        if one.shortcuts.pairs:
            shares = one.shortcuts.as_json()["refusals"]
            lines.append(
                f"{name}: refusals {shares['chosen']:.1%} of chosen, {shares['rejected']:.1%} of "
                "rejected"
            )
        lines += [f"{name}: label shortcut: {lean}" for lean in one.shortcuts.leans()[:EXAMPLES]]
        lines += [
            f"{name}: {count:,} pairs not counted: {CHECKS[code].meaning}"
            for code, count in sorted(one.dropped.items())
        ]
    return "\n".join(lines)


def run_leak(
    train: Path, evaluations: Sequence[Path], options: Options
) -> tuple[str, frozenset[str]]:
    """Find leaks; returns the table and the codes that were found."""
    from data_tools.sets.leak import CONTAMINATED, leaks

    found = leaks(
        train,
        evaluations,
        near=options["near"],
        ngram=options["ngram"],
        read=options["read"],
    )
    if options["report"]:
        with written_whole(options["report"]) as out:
            for leak in found.found:
                out.write(json_line(leak._asdict()))
    size = max(found.evaluation, 1)
    names = ", ".join(str(one) for one in evaluations)
    lines = [f"{found.train:,} rows in {train}, {found.evaluation:,} in {names}"]
    for code in ("leak_exact", "leak_near", "contamination"):
        of_code = found.of(code)
        severity = click.style(f"{CHECKS[code].severity:<5}", fg=COLOURS[CHECKS[code].severity])
        share = f"{len(of_code) / size:6.1%}"
        lines.append(f"{severity} {len(of_code):>8,} {share}  {code}: {CHECKS[code].meaning}")
        lines += [
            f"        {leak.where}: {leak.similarity:.0%} in {leak.train_where}"
            for leak in of_code[:EXAMPLES]
        ]
    if found.some:
        lines.append(f"{found.some:,} more rows share n-grams, but less than {CONTAMINATED:.0%}")
    if found.short:
        words = options["ngram"]
        lines.append(f"{found.short:,} rows have no {words}-gram of their own")
    return "\n".join(lines), frozenset(leak.code for leak in found.found)


def run_show(source: Path, number: int, options: Options) -> Iterator[str]:
    """Yield the lines that show a row."""
    example = example_at(source, number, **options["read"])
    record = example.record
    if isinstance(record, Exception):
        raise record
    if example.more is not None:
        raise row_error(example.row, example.more)
    name = example.adapter.name if example.adapter else ""
    yield f"{example.row.where}: {name}, {record.kind}; flaws: {', '.join(flaws(record)) or 'none'}"
    if example.unused:
        yield f"not used: {', '.join(example.unused)}"
    model = _model(options)
    if model is None:
        for part, text in plain_parts(record):
            yield click.style(f"[{part}]", bold=True)
            yield visible(text)
        return
    try:
        found = sides(record, model, options["max_length"])
    except Unusable as why:
        raise row_error(example.row, why) from None
    for side in found:
        yield from _coloured(side, options["max_length"])


def _coloured(side: Side, max_length: int) -> Iterator[str]:
    """Yield tokens, every other one underlined; green with loss, struck through if cut off."""
    kept = [token for token in side.tokens if token.kept]
    carrying = sum(token.loss for token in kept)
    cut = len(side.tokens) - len(kept)
    counts = f"{len(side.tokens)} tokens, {carrying} carry loss, {cut} cut at {max_length}"
    yield click.style(f"[{side.name}] {counts}", bold=True)
    yield "".join(_styled(token, i) for i, token in enumerate(side.tokens))


def _styled(token: Token, index: int) -> str:
    colour = "green" if token.loss else None
    return click.style(
        visible(token.text),
        fg=colour if token.kept else "red",
        underline=index % 2 == 0,
        strikethrough=not token.kept,
    )


def _model(options: Options) -> Renderer | None:
    if not options["tokenizer"]:
        return None
    from data_tools.rendering import Renderer, named_template, read_tokenizer

    tokenizer = read_tokenizer(options["tokenizer"])
    if options["chat_template"]:
        template = named_template(options["chat_template"], tokenizer).text
        tokenizer = tokenizer.changed(template=template, eos="")
    return Renderer(
        tokenizer,
        as_chat=options["as_chat"],
        loss_on=options["loss_on"],
    )


def _pairing(options: Options) -> Pairing:
    return Pairing(options["pairing"], options["max_pairs"], options["min_margin"], options["seed"])


def _write_json(path: Path, value: Any) -> None:
    with written_whole(path) as out:
        out.write(orjson.dumps(value, option=orjson.OPT_INDENT_2))
