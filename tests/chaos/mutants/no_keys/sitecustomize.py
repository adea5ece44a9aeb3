"""A broker that does not look at a submission's key: what is sent again is done again."""

from pyfi_hpc.core import admit

admit.submit = admit._open
