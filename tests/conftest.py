"""A tiny model made in memory; nothing here touches a network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads only wait for each other

import atexit
import gc
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

# rows of tests are prepared into a folder of their own, and every test process has one
os.environ["ALIGN_CACHE"] = tempfile.mkdtemp(prefix="align-rows-")

import pytest
from support import REPOSITORY, make_tokenizer

from alignment.models.renamed import quiet_libraries

quiet_libraries()  # as the command line does, which some tests call here

# Imports are a quarter faster without collections, and what they load is never garbage: each start
# of training collects, which would visit a million objects every time.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


atexit.register(shutil.rmtree, os.environ["ALIGN_CACHE"], ignore_errors=True)

# A shell lets a job in the background ignore SIGINT, and nohup SIGHUP. What the tests start would
# inherit that, and rightly run on when it is signalled.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama of about 40 thousand parameters and its tokenizer."""
    from alignment.models.imports import import_heavy

    import_heavy("alignment.training.trainers")
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def no_wandb_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that says nothing of W&B."""
    for name in ("MODE", "PROJECT", "DIR", "JOB_TYPE", "RUN_GROUP", "RUN_ID", "RESUME", "API_KEY",
                 "BASE_URL", "INIT_TIMEOUT", "FINISH_TIMEOUT",
                 "FINISH_TIMEOUT_RAISES"):  # fmt: skip
        monkeypatch.setenv(f"WANDB_{name}", "x")  # so that what the test sets is taken back
        monkeypatch.delenv(f"WANDB_{name}")


@pytest.fixture
def own_wandb(no_wandb_variables: None) -> Iterator[None]:
    """W&B as a process of its own would find it, and nothing of it kept after.

    W&B reads its variables once a process: without a teardown a test writes into another's run.
    """
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real slices; a test that needs them skips where they are absent."""
    folder = Path(os.environ.get("ALIGN_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real data slices are not at {folder} (set ALIGN_SHARED_DATA)")
    return folder
