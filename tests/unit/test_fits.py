"""What fits where: the node that comes nearest is named."""

from __future__ import annotations

from pyfi_hpc.core.fits import Stock, nearest
from pyfi_hpc.model.inventory import Inventory
from pyfi_hpc.model.terms import Needs


def test_the_nearest_node_is_the_one_that_lacks_least() -> None:
    """Whatever the nodes are called: two GPUs of three are nearer than none, and fewer things missing than more."""
    stocks = [
        ("a", Stock(Inventory()), 4),
        ("b", Stock(Inventory(gpus=("0",))), 4),
        ("c", Stock(Inventory(gpus=("0", "1"))), 4),
        ("d", Stock(Inventory(gpus=("0", "1", "2"))), 2),
    ]
    assert nearest([Needs(gpu_thousandths=3000)], stocks[:3]) == "c has 2 GPUs"
    assert nearest([Needs(gpu_thousandths=3000)], stocks[:2]) == "b has 1 GPU"
    assert nearest([Needs(gpu_thousandths=3000, cores=4)], stocks) == "c has 2 GPUs"
    assert nearest([Needs(gpu_thousandths=3000, labels=("x",))], stocks[:1]) == "a has no label 'x', 0 GPUs"
