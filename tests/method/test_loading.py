"""A method by its name: the class that its module defines, and its hyper-parameters from defaults, scale and setting."""

from types import ModuleType, SimpleNamespace

import pytest

from compressbench.errors import UserError
from compressbench.method import Method, loading
from tests.conftest import ROOT


def test_a_method_is_the_one_subclass_that_its_module_defines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loading.method_class(ROOT, "magnitude").__name__ == "Magnitude"
    module = ModuleType("methods.baselines.magnitude.method")
    monkeypatch.setattr(loading, "importlib", SimpleNamespace(import_module=lambda name: module))
    for names in ([], ["One", "Two"]):
        vars(module).update({name: type(name, (Method,), {"__module__": module.__name__}) for name in names})
        module.Imported = Method
        with pytest.raises(
            UserError, match=rf"magnitude\.method must define exactly one subclass .*, not {len(names)}"
        ):
            loading.method_class(ROOT, "magnitude")


def test_a_setting_comes_before_its_scale_and_the_scale_before_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = loading.declaration(ROOT, "magnitude")
    at_scale = declared.scales["smoke"].model_copy(update={"config": {"sparsity": 0.1, "keep_first": True}})
    changed = declared.model_copy(update={"scales": {"smoke": at_scale}})
    monkeypatch.setattr(loading, "declaration", lambda root, name: changed)
    found = loading.resolve(ROOT, "magnitude", "global_p90", "smoke")
    assert (found.sparsity, found.keep_first, found.keep_last) == (0.9, True, False)
    elsewhere = loading.resolve(ROOT, "magnitude", "global_p90", "desk")
    assert (elsewhere.sparsity, elsewhere.keep_first) == (0.9, False)


def test_an_unknown_setting_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown setting 'p90' of magnitude; its config\.yaml has: global_p90, "):
        loading.resolve(ROOT, "magnitude", "p90", "smoke")
