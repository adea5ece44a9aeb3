"""Structures become tasks, batches and shapes: compiled without any connection and read as text."""

import pytest

from pyfi_hpc.client.api import functions, funnel, parallel, pipeline, segment
from pyfi_hpc.client.flow import _messages, _results
from pyfi_hpc.client.options import DEFAULT
from pyfi_hpc.client.outcome import Result, shape_of, shaped
from pyfi_hpc.client.structure import Task, batches_of, plan_of
from pyfi_hpc.errors import FlowError, UsageError
from pyfi_hpc.runner.payload import encode_value

f, g, h = functions("f", "g", "h")


def read(structure):
    """Tasks as text, with ``#i`` where the result of task i goes; and the result's template."""

    def text(value):
        if type(value) is Task:
            return f"#{value.index}"
        if type(value) is list:
            return "[" + ",".join(map(text, value)) + "]"
        return repr(value)

    tasks, template, _ = plan_of(structure)
    return [f"{task.socket}({','.join(map(text, task.args))})" for task in tasks], text(template)


STORIES = [
    (f(1), ["f(1)"], "#0"),
    (pipeline([f(1), g(2), h()]), ["f(1)", "g(#0,2)", "h(#1)"], "#2"),
    (parallel([f(1), g(2)]), ["f(1)", "g(2)"], "[#0,#1]"),
    (pipeline([f(1), parallel([g(2), h()]), f()]), ["f(1)", "g(#0,2)", "h(#0)", "f([#1,#2])"], "#3"),
    (parallel([pipeline([f(1), g()]), h(2)]), ["f(1)", "h(2)", "g(#0)"], "[#2,#1]"),
    (funnel([f(1), f(2)], h(3)), ["f(1)", "f(2)", "h([#0,#1],3)"], "#2"),
    (parallel([]), [], "[]"),
    (parallel([parallel([]), f(1)]), ["f(1)"], "[[],#0]"),
    (funnel([], h(1)), ["h([],1)"], "#0"),
    (pipeline([parallel([]), h()]), ["h([])"], "#0"),
    (funnel([funnel([f(1)], g()), parallel([f(2)])], h()), ["f(1)", "f(2)", "g([#0])", "h([#2,[#1]])"], "#3"),
    (pipeline([f(1), funnel([g(), g()], h())]), ["f(1)", "g(#0)", "g(#0)", "h([#1,#2])"], "#3"),
    (segment(f, range(5), 2), [f"f({i})" for i in range(5)], "[[#0,#1],[#2,#3],[#4]]"),
    (segment(f, [(1, 2), (3, 4)], 1), ["f(1,2)", "f(3,4)"], "[[#0],[#1]]"),
    (funnel([f(1)], pipeline([g(), h()])), ["f(1)", "g([#0])", "h(#1)"], "#2"),
]


@pytest.mark.parametrize(("structure", "tasks", "template"), STORIES, ids=[str(s[0])[:60] for s in STORIES])
def test_structures_compile(structure, tasks, template):
    """Rulings 1 and 2: the previous result first, own arguments after; results keep their nesting."""
    assert read(structure) == (tasks, template)


def test_the_seeds_example_keeps_its_nesting():
    """The nested example of the seeds: one final task that receives one nested list."""
    inner = pipeline([f("One"), f("Two"), parallel([f("Four"), f("Five")]), f("Three")])
    whole = funnel([f("Eight"), parallel([inner, f("Six"), f("Seven")]), f("Nine")], f("Four"))
    tasks, template = read(whole)
    assert tasks[-1] == "f([#0,[#8,#2,#3],#4],'Four')"
    assert template == "#9"
    assert len(tasks) == 10


def test_tasks_depend_on_lower_numbers_only():
    """Whatever the nesting, an edge points back: the broker refuses others."""
    layer = f(0)
    for depth in range(5):
        layer = funnel([layer, parallel([g(depth), pipeline([h(1), f(2)])])], g())
    tasks, _, _ = plan_of(layer)

    def used(value):
        if type(value) is Task:
            yield value.index
        if type(value) is list:
            for part in value:
                yield from used(part)

    for task in tasks:
        assert all(index < task.index for arg in task.args for index in used(arg))


def test_equal_pipelines_share_batches():
    """A thousand pipelines of three steps are three batches of a thousand tasks."""
    tasks, _, _ = plan_of(parallel([pipeline([f(i), g(), h()]) for i in range(1000)]))
    assert batches_of(tasks, [10] * 3000, 65536, 1 << 20) == [(0, 1000), (1000, 2000), (2000, 3000)]


def test_batches_are_cut_by_socket_options_count_and_bytes():
    """Consecutive equal tasks share a batch up to the limits; one that is too big still gets its own."""
    slow = f.with_options(time_limit=5)
    tasks, _, _ = plan_of(parallel([f(1), f(2), g(3), f(4), slow(5), slow(6)]))
    assert batches_of(tasks, [1] * 6, 100, 100) == [(0, 2), (2, 3), (3, 4), (4, 6)]
    assert batches_of(tasks[:2], [1] * 2, 1, 100) == [(0, 1), (1, 2)]
    assert batches_of(tasks[:2], [200, 1], 100, 100) == [(0, 1), (1, 2)]
    assert batches_of([], [], 1, 1) == []


def test_edges_name_slots_of_the_same_job():
    """Edges are (offset in batch, slot, 0, index in job); a result used twice has one slot."""
    import msgspec

    tasks, template, _ = plan_of(pipeline([f(1), parallel([g(), g()]), h()]))
    encoded = [(b"x", [need for arg in task.args for need in (arg if type(arg) is list else [arg])
                       if type(need) is Task]) for task in tasks]  # fmt: skip
    messages = _messages(tasks, encoded, DEFAULT, b"shape", b"k" * 16)
    assert [(m.number, m.first, m.count, m.last, m.socket, m.shape) for m in messages] == [
        (0, 0, 1, False, "f", b"shape"), (1, 1, 2, False, "g", b""), (2, 3, 1, True, "h", b"")]  # fmt: skip
    assert [msgspec.msgpack.decode(m.edges) if m.edges else [] for m in messages] == [
        [], [[0, 0, 0, 0], [1, 0, 0, 0]], [[0, 0, 0, 1], [0, 1, 0, 2]]]  # fmt: skip


def test_shapes_are_filled_with_results():
    """A shape with results at any depth of lists, dicts and tuples gets their values."""
    shape = shape_of([Result(2), {"a": (Result(0), [Result(1)])}, []])
    results = [encode_value(value) for value in ("x", {"y"}, (1, 2))]
    assert shaped(shape, results) == [(1, 2), {"a": ("x", [{"y"}])}, []]
    assert shaped(shape_of(_results([])), []) == []


CONTAINS_ITSELF = parallel([])
CONTAINS_ITSELF.branches.append(CONTAINS_ITSELF)

WRONG = [
    (lambda: pipeline([]), "at least one step"),
    (lambda: pipeline([1]), "1 is not a step"),
    (lambda: pipeline(f(1)), "needs a list"),
    (lambda: parallel("ab"), "needs a list"),
    (lambda: plan_of(funnel([f(1)])), "no final step"),
    (lambda: plan_of(parallel([funnel([f(1)])])), "no final step"),
    (lambda: funnel([f(1)], h())(g()), "final step already"),
    (lambda: plan_of(CONTAINS_ITSELF), "contains itself"),
    (lambda: plan_of(parallel([parallel([f(1)], on_failure="cancel")])), "outermost"),
    (lambda: segment(f, [1], 0), "cannot have 0"),
]


@pytest.mark.parametrize(("make", "text"), WRONG, ids=[w[1] for w in WRONG])
def test_wrong_structures_say_how_to_mend_them(make, text):
    """FlowError with what is wrong and a fix; nothing was sent."""
    with pytest.raises(FlowError, match=text) as caught:
        make()
    assert caught.value.fix


def test_functions_make_steps_and_nothing_runs():
    """One name gives one callable, several a tuple; wrong names are refused."""
    assert repr(pipeline([f(1, k=2), g()])) == "pipeline([f(1, k=2), g()])"
    assert functions("x.y").socket_name == "x.y"
    with pytest.raises(UsageError):
        functions()
    with pytest.raises(UsageError):
        functions(" f")


def test_options_that_do_not_exist_are_named():
    """A misspelled option names those that there are."""
    with pytest.raises(UsageError, match="retires") as caught:
        parallel([f(1)], retires=2)
    assert "retries" in caught.value.fix
