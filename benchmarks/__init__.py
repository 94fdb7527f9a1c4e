"""Benchmarks of the run time: what it promises, measured on the device at hand. `./run.sh bench --help` begins."""
