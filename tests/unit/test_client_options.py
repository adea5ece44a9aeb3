"""Options of calls and what is called: durations, checks, names of functions. Values in, values out."""

import math

import pytest

from pyfi_hpc.client.api import functions
from pyfi_hpc.client.options import DEFAULT, duration_s
from pyfi_hpc.client.target import socket_name
from pyfi_hpc.errors import UnknownSocket, UsageError
from pyfi_hpc.model.states import AT_ONCE_MAX, OnFailure

DURATIONS = {
    90: 90, 0.5: 0.5, "90s": 90, "5m": 300, "1h30m": 5400, "2d": 172800, "1.5h": 5400, " 5M ": 300,
    "10": 600, "10:30": 630, "1:00:00": 3600, "1-12": 129600, "1-12:30": 131400, "1-00:00:01": 86401,
}  # fmt: skip


@pytest.mark.parametrize(("text", "seconds"), DURATIONS.items())
def test_durations_are_read_as_slurm_reads_them(text, seconds):
    """Numbers are seconds; text has units, or is in Slurm's forms."""
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5x", "-5", -1, "1:2:3:4", True, None, math.inf, math.nan])
def test_what_is_no_duration_is_refused(text):
    """Anything else raises and says what to write."""
    with pytest.raises(UsageError, match="not a duration"):
        duration_s(text)


def test_options_are_checked_by_name_and_value():
    """Good values are kept, wrong ones named."""
    options = DEFAULT.but(retries=2, time_limit="5m", priority=-3, name="x", on_failure="cancel")
    assert (options.retries, options.time_limit_s, options.priority) == (2, 300.0, -3)
    assert options.on_failure is OnFailure.CANCEL
    limited = options.at_most(20)
    assert (limited.on_failure, limited.at_once, limited.at_most(0).at_once) == (OnFailure.CANCEL, 20, 0)
    shared = DEFAULT.but(project="bio", preemptible=True)
    assert (shared.project, shared.preemptible) == ("bio", True)
    for count in (-1, AT_ONCE_MAX + 1):
        with pytest.raises(UsageError, match="at once"):
            DEFAULT.at_most(count)
    for wrong in ({"retries": -1}, {"retries": 1.5}, {"priority": True}, {"name": 3}, {"on_failure": "stop"},
                  {"project": 7}, {"preemptible": 1}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            DEFAULT.but(**wrong)


def deployed(x):
    return x


class Thing:
    socket_name = "a.b"

    def method(self):
        """Something that cannot be deployed."""


def test_targets_are_names():
    """A name, an object with a socket's name, or a function at the top of a module."""
    assert socket_name("digits.fit") == "digits.fit"
    assert socket_name(Thing()) == "a.b"
    assert socket_name(functions("x.y")) == "x.y"
    assert socket_name(deployed) == f"{__name__}:deployed"


def _main(x):
    return x


_main.__module__ = "__main__"

WRONG = [
    (lambda x: x, "lambda"), (Thing().method, "method"), (Thing.method, "method"), (_main, "__main__"),
    (len, "cannot be called remotely"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "text"), WRONG, ids=[w[1] for w in WRONG])
def test_functions_that_cannot_be_deployed_say_how_to_deploy_one(target, text):
    """Lambdas, methods and functions of the script itself are refused with the way out."""
    with pytest.raises(UnknownSocket, match=text) as caught:
        socket_name(target)
    assert "pyfi deploy" in caught.value.fix


def test_functions_inside_functions_cannot_be_deployed():
    """A closure has no name in its module."""

    def inner(x):
        return x

    with pytest.raises(UnknownSocket, match="inside another function"):
        socket_name(inner)


@pytest.mark.parametrize("target", ["", " x", 3, None])
def test_what_is_no_target_is_refused(target):
    """Neither a name nor a function."""
    with pytest.raises(UsageError):
        socket_name(target)
