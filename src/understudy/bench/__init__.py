"""The benchmarks behind docs/benchmarks.md, each printed by `understudy bench NAME`."""
