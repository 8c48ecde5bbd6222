"""Imported at the start of every Python that has this folder on its PYTHONPATH: `make test-avx2`."""

import importlib

importlib.import_module("only_avx2")
