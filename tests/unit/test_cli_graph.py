"""Pictures of call graphs, as they are printed."""

from __future__ import annotations

from pyfi_hpc.cli.graph import draw


def calls(job: int, *names: str, code: str = "CD") -> dict[str, dict[str, str]]:
    return {f"{job}.{i}": {"socket": name, "code": code} for i, name in enumerate(names)}


def picture(text: str) -> str:
    return text.strip("\n")


def test_one_call() -> None:
    """No lines at all."""
    assert draw(calls(7, "solo"), []) == picture("""
 solo
7.0 CD""")


def test_the_seed_s_picture() -> None:
    """A call, the one after it, and three siblings side by side on one level."""
    tasks = calls(1, *["do_something"] * 5)
    edges = [("1.0", "1.1"), ("1.1", "1.2"), ("1.1", "1.3"), ("1.1", "1.4")]
    assert draw(tasks, edges) == picture("""
               do_something
                  1.0 CD
                     │
               do_something
                  1.1 CD
      ┌──────────────┼──────────────┐
do_something   do_something   do_something
   1.2 CD         1.3 CD         1.4 CD""")


def test_a_funnel() -> None:
    """All of one level lead to one call."""
    tasks = calls(2, "square", "square", "total")
    assert draw(tasks, [("2.0", "2.2"), ("2.1", "2.2")]) == picture("""
square   square
2.0 CD   2.1 CD
   └───┬────┘
     total
    2.2 CD""")


def test_lines_with_different_needs_do_not_touch() -> None:
    """x needs a; y needs a and b; z needs b and x: three lines, and b's passes the others."""
    tasks = calls(1, "a", "b", "x", "y", "z")
    edges = [("1.0", "1.2"), ("1.0", "1.3"), ("1.1", "1.3"), ("1.1", "1.4"), ("1.2", "1.4")]
    assert draw(tasks, edges) == picture("""
       a        b
    1.0 CD   1.1 CD
   ┌───┤        │
   │   └────┬───┤
   │        │   └─┐
   x        y     │
1.2 CD   1.3 CD   │
   └──────┬───────┘
          z
       1.4 CD""")


def test_many_alike_are_drawn_as_one() -> None:
    """A fan of a hundred does not fit: its number and its states stand for it."""
    tasks = calls(3, *["fit"] * 100, "best")
    tasks["3.7"] = {"socket": "fit", "code": "F"}
    edges = [(f"3.{i}", "3.100") for i in range(100)]
    assert draw(tasks, edges, width=80) == picture("""
fit x 100
99 CD 1 F
    │
  best
3.100 CD""")


def test_no_calls_at_all() -> None:
    """An empty picture, no error."""
    assert draw({}, []) == ""
