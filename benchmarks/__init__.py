"""Speed and memory, beside the peers, in one run. `python -m benchmarks.cpu` writes its table."""
