"""Imported at the start of every Python that has this folder on its PYTHONPATH: `make test-avx2`."""

import only_avx2  # type: ignore[import-not-found]  # noqa: F401
