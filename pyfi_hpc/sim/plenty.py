"""For a replay: nodes that have whatever tasks need, since what nodes had is not in a ledger."""

from __future__ import annotations

from pyfi_hpc.core.broker import Broker
from pyfi_hpc.core.fits import Stock
from pyfi_hpc.model.elastic import UNTOLD, Shape
from pyfi_hpc.model.terms import COUNT_MAX, Needs

#: all ranks are one MPI world
WORLDS = [("w", COUNT_MAX)]


class Plenty(Stock):
    """Room for anything, and idle ranks for gangs however much runs."""

    def room(self, needs: Needs, rank_count: int) -> int:
        return COUNT_MAX

    def give(self, needs: Needs, width: int, members: int, tasks: int) -> None:
        pass


def give(broker: Broker) -> None:
    """Nodes of this broker have all, and nothing is refused because none could ever hold it."""
    broker.state.to_come = [Shape(COUNT_MAX, COUNT_MAX**2, UNTOLD)]
    for node in broker.state.nodes.by_name.values():
        if type(node.stock) is not Plenty:
            node.stock = Plenty(ranks=-(COUNT_MAX**2))
