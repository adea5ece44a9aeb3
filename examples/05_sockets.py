"""A processor and two sockets that the script makes itself (or finds, the second time), called like functions.

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

# Called, a socket runs at once and gives the result; `.p` makes it a step of a structure instead.
print("SOCKETS:", do_something("Hello World !"), do_this("Do this!!"))
print("PIPELINE:", pipeline([do_something.p("Hello World !"), do_this.p("Do this!!")]).get())
