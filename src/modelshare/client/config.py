"""The platform's URL and key: from arguments, the environment, or the file written by `login`, in this order."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from modelshare import private_files
from modelshare.client.errors import ConfigError

DEFAULT_URL = "http://127.0.0.1:8000"
"""Where `modelshare serve` listens by default."""


@dataclass(frozen=True, slots=True)
class Config:
    url: str
    """Without a trailing slash."""
    api_key: str | None = field(repr=False)


class _Stored(BaseModel):
    """The file's content."""

    url: str
    api_key: str | None


def load(environ: Mapping[str, str], *, url: str | None = None, api_key: str | None = None) -> Config:
    """The effective configuration: arguments, then MODELSHARE_URL and MODELSHARE_API_KEY, then the file.

    The file's key is used only with the file's URL, so that it is never sent to another platform. Raises ConfigError.
    """
    stored = read(config_path(environ))
    url = _wanted_url(url, environ) or (stored.url if stored else DEFAULT_URL)
    key = api_key or environ.get("MODELSHARE_API_KEY")
    if not key and stored and stored.url == url:
        key = stored.api_key
    return Config(url, checked_key(key) if key else None)


def _wanted_url(url: str | None, environ: Mapping[str, str]) -> str | None:
    """The URL from the argument or the variable.

    Raises ConfigError, which names the variable if its value is invalid.
    """
    if url:
        return normalized_url(url)
    if not (named := environ.get("MODELSHARE_URL")):
        return None
    try:
        return normalized_url(named)
    except ConfigError as error:
        raise ConfigError(f"MODELSHARE_URL: {error.message}") from error


def config_path(environ: Mapping[str, str]) -> Path:
    """The path of the file written by `login`: MODELSHARE_CONFIG, or a file in the user's configuration folder."""
    if named := environ.get("MODELSHARE_CONFIG"):
        return Path(named).expanduser()
    base = environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "modelshare" / "config.json"


def read(path: Path) -> Config | None:
    """The file's configuration, or None if there is no file."""
    try:
        stored = _Stored.model_validate_json(path.read_bytes())
        return Config(normalized_url(stored.url), stored.api_key)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValidationError, ConfigError) as error:
        raise ConfigError(
            f"{path} is not a file written by `modelshare login`. Run it again, or delete the file."
        ) from error


def save(path: Path, config: Config) -> None:
    """Writes the file atomically, readable only by its owner (mode 0600)."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    stored = _Stored(url=config.url, api_key=config.api_key).model_dump_json(indent=2)
    private_files.replace(path, f"{stored}\n".encode())


def normalized_url(url: str) -> str:
    """`url` without a trailing slash; raises ConfigError if it is not an http(s) URL."""
    try:
        parts = urlsplit(url.strip())
        fine = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        fine = fine and not (parts.query or parts.fragment or "@" in parts.netloc or " " in parts.netloc)
        fine = fine and bool((parts.hostname or "").encode("idna")) and bool(httpx.URL(url.strip()).host)
    except (ValueError, httpx.InvalidURL):
        fine = False
    if not fine:
        raise ConfigError(f"{url!r} is not a valid platform URL. Use one such as {DEFAULT_URL}.")
    return url.strip().rstrip("/")


def checked_key(key: str) -> str:
    """`key` without surrounding spaces; raises ConfigError if it cannot be a key."""
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError("The API key contains invalid characters. Copy it again: it starts with `ms_` or `msp_`.")
    return key
