"""Our own keys, beside those of TRL's and transformers' dataclasses; every stage takes them."""

from dataclasses import dataclass, field


@dataclass
class DataArgs:
    """What a stage reads."""

    train_data: list[str] = field(
        default_factory=list,
        metadata={"help": "Files (JSONL, JSON, CSV, Parquet, .gz, .zst), folders or hub names."},
    )
    eval_data: list[str] | None = field(
        default=None,
        metadata={
            "help": "The same for held-out rows, measured at the end and as eval_strategy says."
        },
    )
    eval_fraction: float = field(
        default=0.0,
        metadata={
            "help": "Without eval_data, hold out this share of the training rows, chosen by a hash "
            "of the prompt, so that no prompt stands on both sides."
        },
    )
    data_format: str | None = field(
        default=None,
        metadata={"help": "Name of the source shape; by default found from the keys of the rows."},
    )
    max_rows: int | None = field(
        default=None, metadata={"help": "Train on this many rows, drawn by seed from all of them."}
    )
    on_bad_row: str = field(
        default="raise",
        metadata={
            "help": "'raise' stops at the first unusable row, 'drop' counts and names them.",
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
    """Where a stage writes, and how it treats what is there."""

    resume: bool = field(
        default=False, metadata={"help": "Go on from the newest checkpoint in output_dir."}
    )
    resume_anyway: bool = field(
        default=False,
        metadata={"help": "With resume: go on although settings, data or the model changed."},
    )
    overwrite: bool = field(
        default=False,
        metadata={
            "help": "Start anew where output_dir holds a run; that one is set aside, and deleted "
            "once the new one is finished."
        },
    )
    preflight: bool = field(
        default=True,
        metadata={
            "help": "Send the longest batch through forward and backward before step 1, so that "
            "too little memory is known within seconds. Results stay the same to the bit."
        },
    )
    max_loss_spike: float | None = field(
        default=None,
        metadata={
            "help": "Stop where a logged loss is over so many times the running median; by default "
            "never. With logging_steps 1 every step is looked at."
        },
    )
    run_group: str | None = field(
        default=None, metadata={"help": "W&B group; a pipeline gives its own name."}
    )


OWN = (DataArgs, RunArgs)
