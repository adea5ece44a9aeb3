"""A funnel: all at once, then one function over the list of all results.

pyfi up && pyfi deploy examples/sample && python examples/03_funnel.py

On Slurm: pyfi up --slurm -N 2 -t 10:00 first; the rest is the same.
"""

from pyfi_hpc import functions, funnel

SAMPLE = "pyfi.processors.sample"
square, total = functions(f"{SAMPLE}.square", f"{SAMPLE}.total")

print("FUNNEL:", funnel([square(n) for n in range(100)])(total()).get())
