"""A pipeline: each step gets the previous result first, then its own arguments.

pyfi up && pyfi deploy examples/sample && python examples/01_pipeline.py

On Slurm: pyfi up --slurm -N 2 -t 10:00 first; the rest is the same.
"""

from pyfi_hpc import functions, pipeline

SAMPLE = "pyfi.processors.sample"
square, add = functions(f"{SAMPLE}.square", f"{SAMPLE}.add")

# ((3 squared) + 1) squared
print("PIPELINE:", pipeline([square(3), add(1), square()]).get())
