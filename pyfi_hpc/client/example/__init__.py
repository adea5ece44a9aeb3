"""Names for the sockets of ``examples/sample``, so that the first workflows read like plain Python."""
