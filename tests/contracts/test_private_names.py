"""Private names of libraries: all that we use are listed, and none changed."""

import ast
from pathlib import Path

import pytest
from contracts.private_names import NAMES, REPLACED, PrivateName
from contracts.scan import MODULES, is_private, module_name, private_uses, replaces_attributes

LISTED = {(module, entry.name) for entry in NAMES for module in entry.modules}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_uses_the_private_names_that_are_listed_for_it(path: Path) -> None:
    name = module_name(path)
    assert private_uses(path) == {private for module, private in LISTED if module == name}


def test_no_module_is_listed_that_is_gone() -> None:
    assert {module for module, _ in LISTED} | set(REPLACED) <= {module_name(p) for p in MODULES}


@pytest.mark.parametrize("entry", NAMES, ids=lambda entry: entry.name)
def test_a_private_name_is_still_what_it_was(entry: PrivateName) -> None:
    assert entry.library in {"transformers", "trl", "accelerate", "peft", "torch", "datasets"}
    assert entry.why
    entry.holds()


def test_each_name_is_listed_once() -> None:
    names = [entry.name for entry in NAMES]
    assert len(set(names)) == len(names)
    assert all(map(is_private, names))


def test_attributes_are_replaced_only_where_it_says_why() -> None:
    assert {module_name(path) for path in MODULES if replaces_attributes(path)} == set(REPLACED)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from torch._subclasses import FakeTensorMode", {"_subclasses"}),
        ("import torch.utils._pytree", {"_pytree"}),
        ("from alignment.ppo.forward import _MAX_LOGITS", {"_MAX_LOGITS"}),
        ("from __future__ import annotations", set()),
        ("trainer._step += 1", {"_step"}),
        ("trainer.model._modules['x'].weight", {"_modules"}),
        ("row._replace(a=1); x.__dict__; _", set()),
        ("self._a", set()),
        ("save_model(folder, _internal_call=True)", {"_internal_call"}),
        ("'_func' in vars(layer)", {"_func"}),
        ("vars(config).get('_hash')", {"_hash"}),
        ("config.__dict__['_hash']", {"_hash"}),
        ("getattr(config, '_hash')", {"_hash"}),
        ("{'_type': 'x'}.get('_type')", set()),
    ],
)
def test_uses_are_found(
    code: str, found: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ast.parse(code)
    file = tmp_path / "module.py"
    file.write_text(code, encoding="utf-8")
    monkeypatch.setattr("contracts.scan.REPOSITORY", tmp_path)
    assert private_uses(file) == found


def test_names_of_a_base_class_are_found_in_a_class_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read, set, called, overridden and by accident; a name of our own is none."""
    (tmp_path / "with_base.py").write_text(
        "from transformers import Trainer\n"
        "class Ours(Trainer):\n"
        "    _own = 1\n"
        "    def _save(self):\n"
        "        super()._load_best_model()\n"
        "        self._train_batch_size = self._own\n"
        "        self._mine = 1\n",
        encoding="utf-8",
    )
    monkeypatch.setattr("contracts.scan.REPOSITORY", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = private_uses(tmp_path / "with_base.py")
    assert found == {"_save", "_load_best_model", "_train_batch_size"}


@pytest.mark.parametrize(
    ("code", "replaces"),
    [
        ("setattr(model, name, x)", True),
        ("model.forward = types.MethodType(forward, model)", True),
        ("vars(model).update(x)", True),
        ("vars(model)['a'] = 1", True),
        ("model.__dict__['a'] = 1", True),
        ("del vars(model)['a']", True),
        ("object.__setattr__(self, 'a', 1)", True),
        ("vars(args)['a']", False),
        ("args.a = 1", False),
    ],
)
def test_replaced_attributes_are_found(code: str, replaces: bool, tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(code, encoding="utf-8")
    assert replaces_attributes(file) is replaces
