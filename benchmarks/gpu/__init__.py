"""What only a GPU shows, in one run of at most 450 s: `python -m benchmarks.gpu`. README.md beside this says more."""
