"""Keys that every stage has in addition to those of TRL's and transformers' dataclasses."""

from dataclasses import dataclass, field


@dataclass
class DataArgs:
    """The data that a stage reads."""

    train_data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Files (JSONL, JSON, CSV, TSV, Parquet; also .gz, .zst), folders, hub names or "
            "dataset_info.json@NAME. A weight mixes several: a.jsonl:0.7 b.jsonl:0.3."
        },
    )
    eval_data: list[str] | None = field(
        default=None,
        metadata={
            "help": "Held-out rows, evaluated at the end and at the steps that eval_strategy sets."
        },
    )
    eval_fraction: float = field(
        default=0.0,
        metadata={
            "help": "Hold out this share of the training rows if there is no eval_data. Rows are "
            "chosen by a hash of the prompt, so that no prompt is in both parts."
        },
    )
    data_format: str | None = field(
        default=None,
        metadata={"help": "Name of the data format. Default: detected from the keys of the rows."},
    )
    columns: dict[str, str] | str | None = field(
        default=None,
        metadata={
            "help": "Which columns of the data hold which parts, if no format knows their names: "
            "prompt=question,chosen=answer_good,rejected=answer_bad, or a mapping."
        },
    )
    data_encoding: str | None = field(
        default=None,
        metadata={
            "help": "Encoding of text files, such as gb18030. Default: detected for each file."
        },
    )
    max_rows: int | None = field(
        default=None, metadata={"help": "Train on this many rows, sampled from all with the seed."}
    )
    on_bad_row: str = field(
        default="raise",
        metadata={
            "help": "'raise' stops at the first unusable row; 'drop' leaves such rows out and "
            "reports them.",
            "choices": ["raise", "drop"],
        },
    )
    as_chat: bool | None = field(
        default=None,
        metadata={
            "help": "Wrap string prompts and answers as user and assistant messages. Default: true "
            "if the tokenizer has a chat template."
        },
    )
    chat_template: str | None = field(
        default=None,
        metadata={
            "help": "Chat template in place of the tokenizer's own: a known name (chatml, qwen3, "
            "llama3, ...), a .jinja file, or the folder of a model."
        },
    )
    loss_on: str = field(
        default="assistant",
        metadata={
            "help": "Which tokens carry loss: those of every assistant turn ('assistant'), of the "
            "last one ('last'), or all of them ('all'). A turn with weight 0 carries none.",
            "choices": ["assistant", "last", "all"],
        },
    )


@dataclass
class RunArgs:
    """Where a stage writes, and what it does with an existing run."""

    resume: bool = field(
        default=False, metadata={"help": "Continue from the newest checkpoint in output_dir."}
    )
    resume_anyway: bool = field(
        default=False,
        metadata={"help": "With resume: continue even if settings, data or the model changed."},
    )
    overwrite: bool = field(
        default=False,
        metadata={
            "help": "Start again if output_dir holds a run. The previous run is kept next to it, "
            "and deleted when the new one is finished."
        },
    )
    preflight: bool = field(
        default=True,
        metadata={
            "help": "Run forward and backward on the longest batch before step 1, so that too "
            "little memory is reported within seconds. Results stay the same to the bit."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations without a better metric_for_best_model. "
            "Default: never."
        },
    )
    max_loss_spike: float | None = field(
        default=None,
        metadata={
            "help": "Stop if a logged loss exceeds this multiple of the running median. Default: "
            "never. Set logging_steps to 1 to check every step."
        },
    )
    run_group: str | None = field(
        default=None, metadata={"help": "W&B group. Default in a pipeline: its name."}
    )


OWN = (DataArgs, RunArgs)
