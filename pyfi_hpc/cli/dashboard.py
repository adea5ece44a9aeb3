"""The screen of ``pyfi top``. Only that command imports it: textual takes a third of a second."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.widgets import DataTable, Footer, Log, Static

from pyfi_hpc.cli import frame as frames
from pyfi_hpc.cli.context import Context
from pyfi_hpc.cli.frame import Frame
from pyfi_hpc.cli.jobs import QUEUE
from pyfi_hpc.cli.output import one_line
from pyfi_hpc.errors import PyfiError

_COLOURS = {"CD": "green", "F": "red", "TO": "red", "CA": "yellow", "SK": "yellow", "R": "cyan"}


class Dashboard(App[None]):
    """One instance.

    Parameters
    ----------
    delay_s : float
        Between two frames.
    """

    TITLE = "pyfi top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #title { height: 1; text-style: bold; background: $primary-background; }
    #nodes { height: auto; max-height: 40%; }
    #jobs { height: 1fr; min-height: 4; }
    #why { height: auto; max-height: 8; background: $surface; }
    #log { height: 8; border-top: solid $primary; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("q", "quit", "Quit"), ("p", "pause", "Pause"), ("r", "look", "Look now"), ("l", "logs", "Logs")
    ]  # fmt: skip

    def __init__(self, context: Context, delay_s: float) -> None:
        super().__init__()
        self._command, self._delay_s = context, delay_s
        self._frame: Frame | None = None
        self._tails = frames.Tails(context.settings.log_dir)
        self._paused = self._looking = False

    def compose(self) -> ComposeResult:
        yield Static("", id="title", markup=False)
        yield DataTable(id="nodes", cursor_type="none", zebra_stripes=True)
        yield DataTable(id="jobs", cursor_type="row")
        yield Static("", id="why", markup=False)
        yield Log(id="log", max_lines=1000)
        yield Footer()

    def on_mount(self) -> None:
        self.query_one("#nodes", DataTable).add_columns(*frames.NODE_TITLES)
        self.query_one("#jobs", DataTable).add_columns(*[column.title for column in QUEUE])
        self.query_one("#jobs").focus()
        self.set_interval(self._delay_s, self.action_look)
        self.action_look()

    # --- what keys do ---

    def action_look(self) -> None:
        """Ask for a frame, unless the last answer is still to come."""
        if not self._looking and not self._paused:
            self._looking = True
            self.run_worker(self._look, thread=True)

    def action_pause(self) -> None:
        self._paused = not self._paused
        self._title()

    def action_logs(self) -> None:
        log = self.query_one("#log")
        log.display = not log.display

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        job = str(event.row_key.value)
        self.run_worker(lambda: self._ask_why(job), thread=True)

    # --- in threads of their own: a broker that hangs must not hold the keys ---

    def _look(self) -> None:
        found, lines = frames.look(self._command, self._frame), self._tails.lines()
        self.call_from_thread(self._show, found, lines)

    def _ask_why(self, job: str) -> None:
        try:
            found = self._command.session.ask("why", {"job": int(job)}, self._command.settings.timeout_s, repeat=True)
            start = [] if found.get("start_s") is None else [f"starts in about {found['start_s']:.1f} s"]
            lines = [f"job {job}: {found['reason']}", *found["because"], *start, *found["would"]]
        except (PyfiError, TimeoutError) as error:
            lines = [f"job {job}: {str(error).splitlines()[0]}"]
        self.call_from_thread(self.query_one("#why", Static).update, "\n".join(map(one_line, lines)))

    # --- the screen ---

    def _show(self, found: Frame, lines: list[str]) -> None:
        self._frame, self._looking = found, False
        if not self.query("#title"):
            return  # the user has quit, and the screen is being taken down
        self._title()
        if not found.problem:
            nodes: DataTable[Any] = self.query_one("#nodes", DataTable)
            nodes.clear()
            for node in found.nodes:
                nodes.add_row(*map(one_line, frames.node_cells(node)))
            self._show_jobs(found)
        log = self.query_one("#log", Log)
        for line in lines:
            log.write_line(one_line(line))

    def _show_jobs(self, found: Frame) -> None:
        """The chosen job stays chosen where it is still shown."""
        table: DataTable[Any] = self.query_one("#jobs", DataTable)
        chosen = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value if table.row_count else None
        table.clear()
        for job in found.jobs:
            cells = [column.text(job) for column in QUEUE]
            table.add_row(*[Text(cell, _COLOURS.get(cell, "")) for cell in cells], key=str(job["id"]))
        keys = [str(job["id"]) for job in found.jobs]
        if chosen in keys:
            table.move_cursor(row=keys.index(chosen))

    def _title(self) -> None:
        text = self._frame.title() if self._frame is not None else ""
        self.query_one("#title", Static).update(one_line(("PAUSED  " if self._paused else "") + text))
