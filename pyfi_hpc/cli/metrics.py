"""``pyfi metrics``: counts of the instance for Prometheus, printed once or served to who has the token."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import click

from pyfi_hpc.cli.context import Context, pass_context
from pyfi_hpc.errors import PyfiError, SiteError, UsageError

if TYPE_CHECKING:
    from prometheus_client import Metric

#: a scrape gives up after 10 s by default: before that the answer is "not there", seconds
_ANSWER_S = 5.0
#: numbers of ``broker`` in the answer to ``info``: name -> (metric, what it is)
_BROKER = {
    "open_tasks": ("tasks_unfinished", "Tasks that were accepted and are not final"),
    "ready_tasks": ("tasks_ready", "Tasks that wait for nothing but a rank"),
    "payload_bytes": ("payload_bytes", "Arguments of unfinished tasks in the broker's memory"),
    "clients": ("clients", "Connected clients"),
    "epoch": ("broker_epoch", "Number of this broker among all that the ledger has had"),
}
_COUNTS = {
    "accepted": "Tasks accepted since the broker's start",
    "settled": "Tasks that became final since the broker's start",
    "retried": "Attempts that failed and are made again, since the broker's start",
    "stale": "Outcomes that came too late to count, since the broker's start",
    "refused": "Submissions that were refused, since the broker's start",
}
_NODES: dict[str, tuple[str, Callable[[Mapping[str, Any]], float]]] = {
    "node_ranks": ("Ranks that take tasks", lambda node: node["ranks"]),
    "node_tasks_running": ("Tasks that ran at the last beat", lambda node: node["running"]),
    "node_tasks_held": ("Tasks that the node has, running ones too", lambda node: node["outstanding"]),
    "node_load": ("Load average over a minute", lambda node: node["load"]),
    "node_memory_bytes": ("Memory in use", lambda node: node["memory_bytes"]),
    "node_draining": ("1: it is about to leave", lambda node: bool(node["draining"])),
    "node_quarantined": ("1: it rests because tasks failed there", lambda node: bool(node["quarantined"])),
    "node_ranks_resting": ("Ranks that rest because they fail", lambda node: len(node["resting"])),
}


@click.command()
@click.option("--serve", metavar="ADDRESS:PORT", help="Serve them over HTTP until ended, such as 127.0.0.1:9464.")
@pass_context
def metrics(context: Context, serve: str | None) -> None:
    """Print counts of the instance in Prometheus' text format, or serve them.

    Whoever asks over HTTP has to send the token that lies in the instance's folder; in Prometheus' configuration:

    \b
      authorization:
        credentials_file: ~/.local/state/pyfi/default/metrics.token
    """
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Instance(context, must=serve is None))
    if serve is None:
        click.echo(generate_latest(registry), nl=False)
    else:
        _serve(context, registry, *_place(serve))


class Instance:
    """A collector of prometheus_client: asks the broker each time.

    Parameters
    ----------
    must : bool
        A broker that does not answer is an error, not ``pyfi_up 0``.
    """

    def __init__(self, context: Context, must: bool) -> None:
        self._context, self._must = context, must

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        try:
            found = self._context.session.ask("info", {}, repeat=True, timeout=_ANSWER_S)
        except (PyfiError, TimeoutError):
            if self._must:
                raise
            yield GaugeMetricFamily("pyfi_up", "1: the broker answers", 0)
            return
        broker, ledger = found["broker"], found["ledger"]
        yield GaugeMetricFamily("pyfi_up", "1: the broker answers", 1)
        yield GaugeMetricFamily("pyfi_ledger_up", "1: Postgres answers", not broker["ledger_down"])
        if "bytes" in ledger:
            yield GaugeMetricFamily("pyfi_ledger_bytes", "Size of the ledger's database", ledger["bytes"])
        yield GaugeMetricFamily("pyfi_jobs_unfinished", "Jobs that have not ended", len(broker["jobs"]))
        for name, (metric, text) in _BROKER.items():
            yield GaugeMetricFamily(f"pyfi_{metric}", text, broker[name])
        for name, text in _COUNTS.items():
            yield CounterMetricFamily(f"pyfi_tasks_{name}", text, broker["counts"][name])
        for name, (text, value) in _NODES.items():
            family = GaugeMetricFamily(f"pyfi_{name}", text, labels=("node", "allocation"))
            for node in broker["nodes"]:
                family.add_metric((node["name"].partition("/")[0], node["allocation"]), value(node))
            yield family


def _place(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not address or not port.isdigit() or not 0 <= int(port) < 1 << 16:
        raise UsageError(f"{text!r} is no address to serve at", fix="write ADDRESS:PORT, such as 127.0.0.1:9464")
    return address, int(port)


def _serve(context: Context, registry: Any, address: str, port: int) -> None:
    from prometheus_client import make_wsgi_app

    file = context.settings.instance_dir / "metrics.token"
    if not file.exists():
        file.touch(0o600)
        file.write_text(secrets.token_urlsafe(24))
    wanted = f"Bearer {file.read_text().strip()}".encode()
    answer = make_wsgi_app(registry)

    def checked(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if hmac.compare_digest(environ.get("HTTP_AUTHORIZATION", "").encode("latin-1"), wanted):
            return answer(environ, start)  # type: ignore[no-any-return]
        start("401 Unauthorized", [("WWW-Authenticate", "Bearer"), ("Content-Type", "text/plain")])
        return [f"send the token that lies in {file.name} of the instance's folder\n".encode()]

    try:
        server = make_server(address, port, checked, handler_class=_Quiet)
    except OSError as error:
        where = f"{address}:{port}"
        raise SiteError(f"cannot serve there: {error.strerror}", where=where, fix="take another port") from None
    with server:
        click.echo(f"metrics at http://{address}:{server.server_port}/metrics, token in {file}")
        server.serve_forever()


class _Quiet(WSGIRequestHandler):
    """Without a line for each request; who connects and says nothing holds others up so long, seconds."""

    timeout = 10.0

    def log_message(self, *_: Any) -> None: ...
