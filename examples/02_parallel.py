"""A parallel structure: all at once, the results in the order in which they were written down.

pyfi up && pyfi deploy examples/sample && python examples/02_parallel.py

On Slurm: pyfi up --slurm -N 2 -t 10:00 first; the rest is the same.
"""

from pyfi_hpc import functions, parallel, pipeline

SAMPLE = "pyfi.processors.sample"
square, add = functions(f"{SAMPLE}.square", f"{SAMPLE}.add")

# A structure may hold structures: its result is a list in the same shape.
print("PARALLEL:", parallel([square(2), pipeline([square(3), add(1)]), square(4)]).get())
