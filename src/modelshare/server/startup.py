"""Starts the platform. Errors name the setting to change."""

import contextlib
import os
from collections.abc import AsyncIterator, Iterator

from modelshare import private_files
from modelshare.server import installation
from modelshare.server.app import Application, create_app
from modelshare.server.settings import Settings, SettingsError
from modelshare.server.storage_errors import StorageSettingError


@contextlib.asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[Application]:
    """The running platform. Raises SettingsError if its folder is in use, or its database or storage is unavailable."""
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_sole_user(settings))
        installation.require_finished_restore(settings)
        async with installation.opened(settings) as database:
            await installation.require_secret(settings, database)
        try:
            application = create_app(settings)
        except StorageSettingError as error:
            raise SettingsError(f"Invalid setting `storage_url`: {error}") from error
        with installation.database_errors(application.database):
            await stack.enter_async_context(application.running())
        yield application


@contextlib.contextmanager
def _sole_user(settings: Settings) -> Iterator[None]:
    """SQLite is for one process: two would not notify each other of changes."""
    if not settings.database.startswith("sqlite"):
        yield
        return
    folder = settings.data_dir
    try:
        descriptor = private_files.lock(folder / "server.lock")
    except BlockingIOError:
        raise SettingsError(
            f"Another modelshare server uses {folder}. Stop it, or choose another --data-dir; for several "
            "processes on the same data, set `database_url` to a PostgreSQL database."
        ) from None
    except OSError as error:
        raise SettingsError(f"Cannot use {folder}: {error.strerror}. Choose another --data-dir.") from error
    try:
        yield
    finally:
        os.close(descriptor)
