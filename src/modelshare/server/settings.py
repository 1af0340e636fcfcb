"""Settings: one frozen object, read once from `modelshare.toml`, then `MODELSHARE_*`, then the command line.

A setting `a_b` is `MODELSHARE_A_B` in the environment, `a_b = …` or `[a] b = …` in the file. `MODELSHARE_A_B_FILE`
names a file that holds the value, for secrets. An empty variable counts as none, but for the secret.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from modelshare.server import secret
from modelshare.wire.link import MAX_REQUEST_BODY

GIB = 1 << 30
PREFIX = "MODELSHARE_"
_NOT_SETTINGS = frozenset(
    f"MODELSHARE_{name}" for name in ("URL", "API_KEY", "CONFIG", "JOIN_KEY", "JOIN_KEY_FILE", "ENGINE_ENV")
)
"""What client and agent read; the server shares their prefix."""
_NEVER_EMPTY = "MODELSHARE_SECRET"
"""An empty one is what is left of a secret that could not be found."""


_ORIGIN = re.compile(r"https?://[a-z0-9.\-\[\]:]+")
_DRIVERS = {"postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}


class SettingsError(Exception):
    """A setting is wrong; the message names it and says what fits."""


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = Path("data")
    """Where the embedded database and weights live, and the secret when none is set."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    public_url: str | None = None
    """How clients reach the platform, such as https://models.example.org; None: by an address of this machine."""
    advertise_url: str | None = None
    """How the other processes behind one load balancer reach this one; None takes host and port."""
    database_url: str | None = None
    """`postgresql://user:password@host/name`; None is SQLite in the data folder."""
    database_grace_seconds: int = Field(default=30, ge=0, le=3600)
    """How long keys, sessions and endpoints already known go on while the database cannot be asked."""
    storage_url: str | None = None
    """`s3://bucket/prefix?endpoint=…`, `file:///folder`, or a plug-in's; None is a folder in the data folder."""
    secret: SecretStr | None = None
    """Signs download links. Processes behind one load balancer need the same; None makes one in the data folder."""
    secret_keys: SecretStr | None = None
    """Encrypt secrets in the database: keys of 64 hex digits, the first encrypts, all decrypt. None creates a key file
    in the data folder."""
    storage_allow_private: bool = False
    """Whether projects' own storages may use http and private addresses, including those of this machine."""
    tiers_file: Path | None = None
    """Replaces the tiers that come with the package."""

    catalog_promotion: bool = True
    """False: nothing ever assigns the role `shared`."""
    models_allow_pickle: bool = False
    """On: pickle weights (.bin, .pt, .ckpt, .pkl) are accepted; they can run code where they are loaded."""
    projects_quota_bytes: int = Field(default=512 * GIB, ge=0)
    """Most bytes of weights a project may store, where it has no quota of its own."""
    uploads_part_size: int = Field(default=64 << 20, ge=5 << 20, le=5 * GIB)
    uploads_expire_seconds: int = Field(default=24 * 3600, ge=1)
    """A session ends after this long without activity."""
    grants_seconds: int = Field(default=600, ge=1)
    """How long a grant's download links are valid."""
    keys_rotation_grace_seconds: int = Field(default=24 * 3600, ge=0)
    """How long the old value of a rotated key still works."""
    keys_cut_streams: bool = True
    """False: a request that is under way when its key is revoked, replaced or expires may end."""
    accounts_sign_up: Literal["open", "invite_only"] = "open"
    """Invite only: after the first person, only those sign up who were invited into a project."""
    accounts_projects_per_person: int = Field(default=10, ge=0)
    """Most projects that a person may own by making them; the platform's admins may make any number."""
    accounts_session_days: int = Field(default=30, ge=1, le=3650)
    """How long somebody stays signed in."""
    public_requests_per_minute: int = Field(default=1200, ge=1)
    """Per address, on routes that need no key."""
    inference_max_body_bytes: int = Field(default=MAX_REQUEST_BODY, ge=1, le=MAX_REQUEST_BODY)
    uploads_open_per_project: int = Field(default=100, ge=1)
    """Most uploads that a project may have open at once."""
    agents_per_join_key: int = Field(default=100, ge=1)
    """Most agents that may be there at once by one join key."""
    agents_per_project: int = Field(default=1000, ge=1)
    """Most agents that a project may have at once."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses whose X-Forwarded-For is believed."""
    webhooks_allow_private: bool = False
    """On: webhooks may use http and reach private addresses, this machine's included."""
    log_format: Literal["text", "json"] = "text"

    connections_total: int | None = Field(default=None, ge=16)
    """Most connections at once; None takes three quarters of the files that the operating system allows a process."""
    connections_per_address: int = Field(default=128, ge=1)
    """Of strangers (who showed no key, session or signed link), while the platform waits for them."""
    connections_head_seconds: float = Field(default=10, gt=0)
    """In which a request's headers have to be there."""
    connections_idle_seconds: float = Field(default=75, gt=0)
    """How long a connection is kept after an answer."""
    connections_stalled_seconds: float = Field(default=30, gt=0)
    """In which something of a request's body has to come, and something of an answer to be taken."""
    connections_stop_seconds: float = Field(default=10, ge=0)
    """How long answers that are under way may go on when the process is to stop."""
    cors_origins: tuple[str, ...] = ()
    """Where pages of others may call the platform from, such as https://app.example.org; `*` is everywhere."""

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str | None) -> str | None:
        if url is not None and url.partition("://")[0] not in _DRIVERS:
            raise ValueError("use postgresql://user:password@host/name, or leave it out for SQLite")
        return url

    @field_validator("secret")
    @classmethod
    def _no_guessable_secret(cls, given: SecretStr | None) -> SecretStr | None:
        if given is not None:
            secret.check(given.get_secret_value().encode())
        return given

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"`{origin}` is not a valid origin: use https://app.example.org, without a path, or `*`"
                )
        return origins

    @property
    def address(self) -> str:
        """This process's own URL."""
        return self.advertise_url or f"http://{self.host}:{self.port}"

    @property
    def database(self) -> str:
        """SQLAlchemy URL."""
        if self.database_url is None:
            return f"sqlite+aiosqlite:///{self.data_dir.absolute() / 'modelshare.db'}"
        scheme, _, rest = self.database_url.partition("://")
        return f"{_DRIVERS[scheme]}://{rest}"

    def signing_secret(self) -> bytes:
        """The secret, or the one in the data folder, made on first use. SettingsError where it will not do."""
        if self.secret is not None:
            return self.secret.get_secret_value().encode(errors="surrogateescape")
        file = secret.path(self.data_dir)
        try:
            return secret.of_folder(self.data_dir)
        except ValueError as error:
            raise SettingsError(
                f"{file} does not contain a valid secret: {error}. Restore it from a backup, or, if it is lost, "
                "delete the file and run `modelshare admin replace-secret`."
            ) from error
        except OSError as error:
            raise SettingsError(
                f"{file} cannot be created or read: {error.strerror}. Choose another `data_dir`, or set `secret`."
            ) from error

    def with_secret(self) -> Self:
        """The same with the secret in it, so that a process goes by one and the same while it runs. SettingsError."""
        own = self.signing_secret().decode(errors="surrogateescape")
        return self.model_copy(update={"secret": SecretStr(own)})


def load(environ: Mapping[str, str], file: Path | None = None, **given: Any) -> Settings:
    """Reads the settings; `given` (the command line) wins over the environment, the environment over the file.

    Raises SettingsError with a sentence that names the setting.
    """
    values = {**_from_file(file), **_from_environment(environ)}
    values.update({name: value for name, value in given.items() if value is not None})
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise SettingsError(f"There is no setting `{name}`. docs/settings.md lists all of them.") from error
        raise SettingsError(f"Invalid setting `{name}`: {first['msg'].removeprefix('Value error, ')}.") from error


def _from_file(file: Path | None) -> dict[str, Any]:
    path = file or Path("modelshare.toml")
    if not path.exists():
        if file is not None:
            raise SettingsError(f"The settings file {file} does not exist.")
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"Cannot read the settings file {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"The settings file {path} is not valid TOML: {error}.") from error
    values: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            values.update({f"{name}_{key}": inner for key, inner in value.items()})
        else:
            values[name] = value
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in _NOT_SETTINGS or (not value and variable != _NEVER_EMPTY):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in Settings.model_fields and name.endswith("_file"):
            name = name.removesuffix("_file")
            if environ.get(variable.removesuffix("_FILE")):
                raise SettingsError(f"Set {variable.removesuffix('_FILE')} or {variable}, not both.")
            value = _content(variable, value)  # noqa: PLW2901 - what the variable means
        values[name] = _list(value) if name in {"trusted_proxies", "cors_origins"} else value
    return values


def _content(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{variable} names {path}, which cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{variable} names {path}, which is not UTF-8 text.") from error


def _list(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())
