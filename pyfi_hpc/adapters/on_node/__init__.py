"""Steps on a node that is being added over ssh: these files are sent there and run by the node's own Python.

They have the standard library and each other only, because nothing of ours is there yet. What lies on a node::

    BASE/venvs/VERSION-HASH-cp311/    our package; pyfi-venv.json is written last
    BASE/nodes/INSTANCE-KEY/          PYFI_HOME of the agent, where the node does not see that of the instance
"""
