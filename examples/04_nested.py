"""Structures in structures: a pipeline with a parallel inside, in a parallel, in a funnel.

pyfi up && pyfi deploy examples/sample && python examples/04_nested.py

On Slurm: pyfi up --slurm -N 2 -t 10:00 first; the rest is the same.
"""

from pyfi_hpc.client.api import functions, funnel, parallel, pipeline

SAMPLE = "pyfi.processors.sample"
do_something, do_this = functions(f"{SAMPLE}.do_something", f"{SAMPLE}.do_this")

_pipeline = pipeline([
    do_something("One"),
    do_something("Two"),
    parallel([
        do_something("Four"),
        do_something("Five"),
    ]),
    do_something("Three"),
])  # fmt: skip

_parallel = parallel([
    _pipeline,
    do_something("Two"),
    do_something("Three"),
])  # fmt: skip

_funnel = funnel([
    do_something("One"),
    _parallel,
    do_this("Three"),
])  # fmt: skip

print("FUNNEL:", _funnel(do_this("Four")).get())
