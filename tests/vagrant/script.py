"""``vagrant/qemu``, a program without a suffix, as a module."""

import importlib.util
import sys
from importlib.machinery import SourceFileLoader

from ..conftest import ROOT

VAGRANT = ROOT / "vagrant"
SCRIPT = VAGRANT / "qemu"


def _load():
    loader = SourceFileLoader("vagrant_qemu", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.modules[loader.name] = module  # dataclasses look there
    writing, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no vagrant/qemuc beside it
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writing
    return module


qemu = _load()
