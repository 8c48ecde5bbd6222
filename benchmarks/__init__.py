"""Measurements. Each runs both sides in one process and prints a ratio; none is part of `make test`."""
