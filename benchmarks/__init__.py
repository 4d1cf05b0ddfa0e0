"""How fast it is, measured: every figure beside its peer and its target, against the real parts.

`python -m benchmarks` measures, `python -m benchmarks --write-docs` makes `docs/performance.md` of what was
measured. Nothing here passes or fails, and no test asserts a time: other people use the machine too.
"""
