"""The examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import satseg_ray

# Scripts, and modules that import TensorFlow
LEFT_OUT = ("pyfunc_model", "losses", "loss", "lovasz", "pixels", "terms", "steps", "loop")

MODULES = [
    module.name
    for module in pkgutil.walk_packages(satseg_ray.__path__, "satseg_ray.")
    if module.name.rpartition(".")[2] not in LEFT_OUT
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.failed == 0
