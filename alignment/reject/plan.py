"""The plan of a run: all arguments and files are checked before anything heavy is imported."""

import importlib.metadata
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignment.errors import ConfigError
from alignment.models.folders import (
    adapter_base,
    check_causal_model,
    check_reward_model,
    has_chat_template,
)
from alignment.reject.output import Account, meta_path, read_account
from alignment.reject.parts import Parts
from alignment.reject.rows import Item, read_items
from alignment.runs import Parent, identify, versions
from data_tools.shapes import named_sources

_BATCH, _VLLM_BATCH = 16, 512


@dataclass(frozen=True, kw_only=True)
class Options:
    """How answers are made.

    Attributes:
        max_new_tokens: Longer answers are cut at this length and marked.
        batch_size: Answers per batch. Default: 16, or 512 with vLLM.
        temperature: 0 is greedy. Default: 0 for one answer per prompt, 1 for several.
        num_samples: Answers per prompt; a reward model picks the best and the worst of several.
        seed: Seed for sampling.
        limit: Use only the first rows.
        format: The format of the rows. Default: detected for each row.
        columns: Which columns hold which parts. Default: those that the formats know.
        encoding: The encoding of text files. Default: detected.
        as_chat: Wrap string prompts as a user message with the chat template. Default: true if the
            tokenizer has a chat template, as in the stages.
        keep_equal: Keep and mark pairs whose two answers are equal.
        reward_accuracy_gate: Minimum held-out accuracy of a reward model that has a run record.
        vllm: Generate with vLLM.
        overwrite: Delete the output and its parts, and start again.
    """

    max_new_tokens: int = 512
    batch_size: int | None = None
    temperature: float | None = None
    num_samples: int = 1
    seed: int = 0
    limit: int | None = None
    format: str | None = None
    columns: str | None = None
    encoding: str | None = None
    as_chat: bool | None = None
    keep_equal: bool = False
    reward_accuracy_gate: float = 0.55
    vllm: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Plan:
    """A run whose arguments were checked.

    Attributes:
        items: All rows, in the order of the sources.
        unused: Rows with text in a column that is not used, by column.
        encodings: The encodings of files that are not UTF-8.
        settings: All settings that affect the answers; a resumed run needs the same ones.
        meta: Further content of `<output>.meta.json`.
        finished: The account of the same run if it has finished already.
        parts: The finished batches.
        context: Maximum number of tokens of the model, known once its config is read.
    """

    items: list[Item]
    unused: dict[str, int]
    encodings: dict[str, str]
    model: str
    reward_model: str | None
    output: Path
    parts: Parts
    options: Options
    batch_size: int
    temperature: float
    as_chat: bool
    settings: dict[str, Any]
    meta: dict[str, Any] = field(default_factory=dict)
    finished: Account | None = None
    context: int | None = None


def make_plan(
    prompts: Sequence[Path],
    *,
    model: str,
    output: Path,
    reward_model: str | None,
    options: Options,
) -> Plan:
    """Check every argument against the files.

    Raises:
        ConfigError: An option, a model or the output cannot be used.
        DataError: The rows cannot be used.
    """
    _check_options(options, reward_model)
    check_causal_model(model, role="model")
    if reward_model is not None:
        check_reward_model(reward_model)
    if options.vllm:
        _check_vllm(model)
    sources = named_sources(prompts, options.format, options.columns, options.encoding)
    if output.resolve() in [one.file.resolve() for one in sources.files]:
        raise ConfigError(f"-o {output}: this is one of the sources", "choose another name")
    if output.is_dir():
        raise ConfigError(f"-o {output}: is a folder", "name a file: out.jsonl")
    kind = "sft" if reward_model is None else "prompt"
    items, unused = read_items(sources, kind=kind, limit=options.limit)
    inputs = sources.contents()
    parents = {"model": identify(model)}
    if reward_model is not None:
        parents["reward_model"] = identify(reward_model)
    as_chat = has_chat_template(model) if options.as_chat is None else options.as_chat
    temperature = options.temperature
    if temperature is None:
        temperature = 0.0 if options.num_samples == 1 else 1.0
    batch_size = options.batch_size or (_VLLM_BATCH if options.vllm else _BATCH)
    settings = _settings(options, inputs, parents)
    settings |= {"as_chat": as_chat, "temperature": temperature, "batch_size": batch_size}
    parts = Parts(output.with_name(output.name + ".parts"))
    return Plan(
        items=items,
        unused=unused,
        encodings=sources.encodings(),
        model=model,
        reward_model=reward_model,
        output=output,
        parts=parts,
        options=options,
        batch_size=batch_size,
        temperature=temperature,
        as_chat=as_chat,
        settings=settings,
        meta={"inputs": inputs, **{role: asdict(parent) for role, parent in parents.items()}},
        finished=_find_finished(output, parts, settings, options),
    )


def _settings(
    options: Options, inputs: list[dict[str, Any]], parents: dict[str, Parent]
) -> dict[str, Any]:
    """All settings that affect the answers, except the device."""
    found: dict[str, Any] = {
        "inputs": [source.get("sha256") or source["hub"] for source in inputs],
        "format": options.format or None,
        "columns": json.dumps([source.get("columns") for source in inputs], sort_keys=True),
        "encoding": options.encoding,
        "limit": options.limit,
        **{role: parent.fingerprint for role, parent in parents.items()},
        "engine": "vllm" if options.vllm else "transformers",
        "max_new_tokens": options.max_new_tokens,
        "num_samples": options.num_samples,
        "seed": options.seed,
        "versions": versions(),
    }
    if options.vllm:
        found["versions"]["vllm"] = importlib.metadata.version("vllm")
    return found


def _find_finished(
    output: Path, parts: Parts, settings: dict[str, Any], options: Options
) -> Account | None:
    """The account of this run if the output holds it already; None if the output is free.

    Raises:
        ConfigError: The output or its parts are of another run.
    """
    if options.overwrite:
        return None
    if not output.exists():
        parts.refuse_others(settings)
        return None
    account = read_account(output, settings, keep_equal=options.keep_equal)
    if account is None:
        raise ConfigError(
            f"-o {output}: exists already, and was made from other input or with other settings",
            f"choose another name, or replace it with --overwrite (see {meta_path(output).name})",
        )
    return account


def _check_options(options: Options, reward_model: str | None) -> None:
    lows = {"max_new_tokens": 1, "batch_size": 1, "num_samples": 1, "limit": 1}
    for key, low in (lows | {"temperature": 0, "seed": 0}).items():
        value = vars(options)[key]
        if value is not None and value < low:
            raise ConfigError(f"{key}: {value} is below {low}")
    several = options.num_samples > 1
    if several and reward_model is None:
        raise ConfigError(
            f"num_samples: {options.num_samples} answers per prompt need a reward model",
            "name a run of rm: --reward-model FOLDER",
        )
    if reward_model is not None and not several:
        raise ConfigError(
            "reward_model: needs more than one answer per prompt",
            "sample several answers: --num-samples 4",
        )
    if several and options.temperature == 0:
        raise ConfigError(
            "temperature: at 0 all samples of a prompt are the same", "leave it out, or raise it"
        )


def _check_vllm(model: str) -> None:
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "--vllm: vLLM is not installed",
            "pip install 'alignment-pipeline[vllm]', or leave --vllm out",
        )
    if adapter_base(model) is not None:
        raise ConfigError(
            f"--vllm: {model} is a LoRA adapter", "merge it first: align merge ADAPTER FOLDER"
        )
