"""Each kind of model is loaded in one place, and each file of the format is named in one place."""

import ast
from pathlib import Path

import peft.utils
import pytest
import transformers.utils
from support import REPOSITORY
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils.hub import CHAT_TEMPLATE_DIR, CHAT_TEMPLATE_FILE

from alignment.runs import files

MODULES = sorted((REPOSITORY / "alignment").rglob("*.py"))
FILES = REPOSITORY / "alignment" / "runs" / "files.py"
#: A class of transformers or PEFT that reads a model from a folder, and who may call it.
LOADERS = {
    "AutoTokenizer": ["alignment/models/folders.py"],
    "AutoModelForCausalLM": ["alignment/models/policy.py"],
    "AutoModelForSequenceClassification": ["alignment/models/classifier.py"],
    "PeftModel": ["alignment/models/classifier.py"],
}


def loaders_in(path: Path) -> set[str]:
    """The classes whose `from_pretrained` a module names."""
    return {
        node.value.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr == "from_pretrained"
        and isinstance(node.value, ast.Name)
    }


def test_each_kind_of_model_is_loaded_in_one_place() -> None:
    found: dict[str, list[str]] = {}
    for path in MODULES:
        for name in loaders_in(path):
            found.setdefault(name, []).append(path.relative_to(REPOSITORY).as_posix())
    models = {name: found[name] for name in found if name.startswith(("AutoModel", "AutoPeft"))}
    assert models.keys() == LOADERS.keys() - {"AutoTokenizer", "PeftModel"}
    assert {name: found[name] for name in LOADERS} == LOADERS


def texts_in(path: Path) -> set[str]:
    """The texts in a module that are not docstrings, split into the parts of paths."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone
        for part in node.value.split("/")
    }


def test_each_file_is_named_in_one_place() -> None:
    constants = [value for name, value in vars(files).items() if name.isupper()]
    named = {value for value in constants if isinstance(value, str)}
    assert {files.RECORD, files.METRICS, files.ADAPTER_CONFIG} <= named
    named |= {*files.WEIGHTS, "checkpoint-", "checkpoint-*"}
    used = {path: texts_in(path) & named for path in MODULES if path != FILES}
    assert {path.name: names for path, names in used.items() if names} == {}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (files.MODEL_CONFIG, transformers.utils.CONFIG_NAME),
        (files.ADAPTER_CONFIG, peft.utils.CONFIG_NAME),
        (files.ADAPTER_WEIGHTS, peft.utils.SAFETENSORS_WEIGHTS_NAME),
        (files.WEIGHTS[-1], peft.utils.WEIGHTS_NAME),
        (files.TOKENIZER_CONFIG, "tokenizer_config.json"),
        (files.CHAT_TEMPLATE, CHAT_TEMPLATE_FILE),
        (files.NAMED_CHAT_TEMPLATES, CHAT_TEMPLATE_DIR),
        (files.TRAINER_STATE, TRAINER_STATE_NAME),
        (files.SCHEDULER_STATE, SCHEDULER_NAME),
        (files.OPTIMIZER_STATES[0], OPTIMIZER_NAME),
        (files.checkpoint_name(5), f"{PREFIX_CHECKPOINT_DIR}-5"),
    ],
)
def test_the_names_are_those_of_the_libraries(ours: str, theirs: str) -> None:
    assert ours == theirs
