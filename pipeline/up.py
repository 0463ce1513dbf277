"""`herald up`: stores first, then topics and tables, then our parts; until Ctrl-C."""

import signal
import threading

from rich.console import Console

from pipeline import tables, topics
from pipeline.edge.clickhouse import Warehouse
from pipeline.errors import EmbeddedError
from pipeline.parts import services, stores
from pipeline.settings import Settings, with_secrets
from pipeline.supervisor import Supervisor


def start(settings: Settings, console: Console) -> Supervisor:
    """Start everything and return its supervisor. Raises HeraldError, with what did start stopped again."""
    supervisor = Supervisor(settings)
    try:
        _prepare(settings, console)
        with console.status("starting the stores"):
            supervisor.start(stores(settings))
        topics.apply(settings)
        with Warehouse.from_url(settings.warehouse_url) as warehouse:
            tables.apply(warehouse, settings.retention_days)
        with console.status("starting collector, stages and delivery"):
            supervisor.start(services(settings))
    except BaseException:
        supervisor.stop()
        raise
    return supervisor


def _prepare(settings: Settings, console: Console) -> None:
    """Do what needs the network or may take long here, where it can be seen, rather than in a child."""
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedError(
            f"HERALD_DATA_DIR = {settings.data_dir}: {error.strerror}; choose a writable folder"
        ) from error
    if not settings.kafka_bootstrap_servers:
        from pipeline.embedded.kafka_jars import kafka_jars

        with console.status("fetching Apache Kafka (once)"):
            kafka_jars(None, lambda line: console.print(line, markup=False, highlight=False))


def addresses(settings: Settings) -> list[tuple[str, str]]:
    """Return what to look at: (what, where)."""
    collector = f"http://127.0.0.1:{settings.collector_port}"
    delivery = f"http://127.0.0.1:{settings.delivery_port}"
    return [
        ("collector", f"{collector}/v1/batch  {collector}/p.gif"),
        ("decisions", f"{delivery}/v1/decisions"),
        ("API, to read", f"{delivery}/docs"),
        (
            "metrics",
            f"{collector}/metrics  {delivery}/metrics  127.0.0.1:{settings.metrics_port}…{settings.metrics_port + 4}",
        ),
        ("Kafka", settings.bootstrap_servers),
        ("ClickHouse, native", settings.warehouse_url.rpartition("@")[2]),
        ("logs", str(settings.data_dir / "logs")),
    ]


def run(settings: Settings, console: Console) -> int:
    """Run until SIGINT or SIGTERM."""
    settings = with_secrets(settings)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    supervisor = start(settings, console)
    for what, where in addresses(settings):
        console.print(f"{what:<20}{where}", markup=False, highlight=False)
    stop.wait()
    console.print("stopping")
    supervisor.stop()
    return 0
