"""The tiny task of toy_training.py, which is also a program for tests that need processes."""

import importlib.util
from pathlib import Path
import sys

import pytest


@pytest.fixture(scope='session')
def toy():
    path = Path(__file__).with_name('toy_training.py')
    spec = importlib.util.spec_from_file_location('toy_training', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules['toy_training'] = module
    spec.loader.exec_module(module)
    return module
