"""A processor and two sockets made by the script itself, then called like functions.

pyfi up && python examples/05_sockets.py

On Slurm: pyfi up --slurm -N 2 -t 10:00 first; the rest is the same.
"""

from pathlib import Path

from pyfi_hpc.client.api import Processor, Queue, Socket, pipeline

processor = Processor(
    name="proc1", module="pyfi_processors.sample", gitrepo=str(Path(__file__).parent / "sample")
)
queue = Queue(name="pyfi.queue1")
do_something = Socket(name="proc1.socket1", processor=processor, queue=queue, task="do_something")
do_this = Socket(name="proc1.socket2", processor=processor, queue=queue, task="do_this")

print("SOCKETS:", pipeline([do_something("Hello World !"), do_this("Do this!!")]).get())
