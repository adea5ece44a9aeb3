"""What commands there are: a table, so that ``pyfi --help`` imports none of them.

Each command lives in a module of this folder under an attribute; the help text stands here too.
"""

from __future__ import annotations

#: section -> command -> (module, attribute, short help)
SECTIONS: dict[str, dict[str, tuple[str, str, str]]] = {
    "The instance": {
        "up": ("up", "up", "Start the instance here, or ask Slurm for an allocation."),
        "down": ("down", "down", "Stop the instance: ranks, agent, broker, ledger."),
        "top": ("top", "top", "Watch ranks, jobs, nodes and logs live."),
        "info": ("info", "info", "Show the instance: broker, ledger, nodes, counts."),
        "doctor": ("doctor", "doctor", "Check what this machine has and lacks."),
    },
    "Work": {
        "deploy": ("deploy", "deploy", "Make functions of a git repository callable."),
        "task": ("task", "task", "Run one function; show or cancel a task."),
        "map": ("map", "map_command", "Run a function for each of many inputs, as one job."),
        "xargs": ("xargs", "xargs", "Run a program for each of many inputs, as one job."),
        "queue": ("jobs", "queue", "Show jobs: what waits, runs and has ended."),
        "why": ("why", "why", "Tell why a task or job waits, and what would start it."),
        "shares": ("shares", "shares", "Show who shares the ranks, and set weights."),
        "wait": ("jobs", "wait", "Wait until jobs have ended."),
        "hold": ("hold", "hold", "Put jobs on hold: what waits of them does not start."),
        "release": ("hold", "release", "Let jobs go on that are on hold."),
        "cancel": ("jobs", "cancel", "End jobs or single tasks."),
        "logs": ("jobs", "logs", "Print what a task wrote."),
        "report": ("report", "report", "Write a page on a job: what each rank did, and when."),
        "trace": ("trace", "trace", "Write a job as a trace for Perfetto."),
    },
    "Objects": {
        "add": ("add", "add", "Add an object to the ledger."),
        "ls": ("listing", "ls", "List objects, calls and jobs."),
        "update": ("update", "update", "Change fields of an object."),
        "delete": ("objects", "delete", "Delete objects."),
        "proc": ("proc", "proc", "Start, stop, pause or resume processors."),
        "scheduler": ("scheduler", "scheduler", "Say which nodes a scheduler fills."),
    },
    "Operation": {
        "node": ("node", "node", "Add nodes over ssh; take a node out of service."),
        "alloc": ("alloc", "alloc", "Ask for allocations as the backlog wants them."),
        "agent": ("agent", "agent", "Run the agent of this node alone."),
        "metrics": ("metrics", "metrics", "Print or serve counts for Prometheus."),
        "broker": ("broker", "broker", "Run the broker alone."),
        "db": ("db", "db", "The ledger's tables: upgrade, dump."),
        "sim": ("sim", "sim", "Run the machines in an imagined cluster with faults."),
        "completion": ("completion", "completion", "Print the completion script of a shell."),
    },
}

COMMANDS = {name: place for section in SECTIONS.values() for name, place in section.items()}
