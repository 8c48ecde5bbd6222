"""The whole bot for minutes among random people and faults: `python -m tests.soak`."""
