"""Settings: one frozen object, read once from `modelshare.toml`, then `MODELSHARE_*`, then the command line.

A setting `a_b` is `MODELSHARE_A_B` in the environment, `a_b = …` or `[a] b = …` in the file. `MODELSHARE_A_B_FILE`
names a file that holds the value, for secrets. Empty variables are ignored, except the secret.
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
    f"MODELSHARE_{name}"
    for name in ("URL", "API_KEY", "CONFIG", "JOIN_KEY", "JOIN_KEY_FILE", "ENGINE_ENV", "IMPORT_TOKEN")
)
"""Variables of the client and the agent, with the same prefix."""
_NEVER_EMPTY = "MODELSHARE_SECRET"
"""An empty one is an error, since it shows that the secret could not be found."""


_ORIGIN = re.compile(r"https?://[a-z0-9.\-\[\]:]+")
_DRIVERS = {"postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}


class SettingsError(Exception):
    """A setting is invalid. The message names it and says what is valid."""


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = Path("data")
    """Folder of the embedded database, the weights, and the generated secrets."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    public_url: str | None = None
    """URL of the platform for clients, such as https://models.example.org. None: an address of this machine."""
    advertise_url: str | None = None
    """URL of this process for the other processes behind a load balancer. None: host and port."""
    database_url: str | None = None
    """`postgresql://user:password@host/name`. None: SQLite in the data folder."""
    database_grace_seconds: int = Field(default=30, ge=0, le=3600)
    """How long known keys, sessions and endpoints remain valid while the database is unreachable."""
    handover_seconds: int = Field(default=5, ge=0, le=60)
    """How long a request waits for an agent that lost its connection and is expected to connect again."""
    storage_url: str | None = None
    """`s3://bucket/prefix?endpoint=…`, `file:///folder`, or the URL of a plug-in. None: a folder in the data folder."""
    secret: SecretStr | None = None
    """Signs download links; the same for all processes behind a load balancer. None: generated in the data folder."""
    secret_keys: SecretStr | None = None
    """Encrypt secrets in the database: keys of 64 hex digits, the first encrypts, all decrypt. None creates a key file
    in the data folder."""
    storage_allow_private: bool = False
    """Whether projects' own storages may use http and private addresses, including those of this machine."""
    import_enabled: bool = True
    """False: models cannot be imported from other places."""
    import_hf_endpoint: str = "https://huggingface.co"
    """The Hub that `hf:` imports are read from, unless they name another."""
    import_allow_private: bool = False
    """Whether imports may use http and private addresses, including those of this machine."""
    tiers_file: Path | None = None
    """Replaces the default tiers."""

    catalog_promotion: bool = True
    """False: nothing ever assigns the role `shared`."""
    models_allow_pickle: bool = False
    """True: pickle weights (.bin, .pt, .ckpt, .pkl) are accepted, which can run code when they are loaded."""
    projects_quota_bytes: int = Field(default=512 * GIB, ge=0)
    """Maximum bytes of weights per project, unless the project has its own quota."""
    uploads_part_size: int = Field(default=64 << 20, ge=5 << 20, le=5 * GIB)
    uploads_expire_seconds: int = Field(default=24 * 3600, ge=1)
    """An upload expires after this time without activity."""
    grants_seconds: int = Field(default=600, ge=1)
    """Validity of the download links of a grant."""
    keys_rotation_grace_seconds: int = Field(default=24 * 3600, ge=0)
    """How long the old value of a rotated key remains valid."""
    keys_cut_streams: bool = True
    """False: requests in progress may finish when their key is revoked, suspended, replaced or expires."""
    accounts_sign_up: Literal["open", "invite_only"] = "open"
    """`invite_only`: after the first person, only people who were invited into a project can sign up."""
    accounts_projects_per_person: int = Field(default=10, ge=0)
    """Maximum of projects that a person may create. Admins of the platform may create any number."""
    accounts_session_days: int = Field(default=30, ge=1, le=3650)
    """How long people stay signed in."""
    audit_days: int = Field(default=400, ge=1, le=36500)
    """How long entries of the audit log are kept."""
    audit_archive_dir: Path | None = None
    """Folder to which entries are written before they are deleted, one JSON object per line. None: nowhere."""
    audit_confirmations_days: int = Field(default=90, ge=1, le=36500)
    """How long the audit log shows which processes confirmed a change, and when."""
    deletions_days: int = Field(default=400, ge=1, le=36500)
    """How long confirmed deletions of weights are kept."""
    records_days: int = Field(default=90, ge=1, le=36500)
    """How long records of what has ended are kept: revoked keys, removed agents, uploads, imports, moves."""
    public_requests_per_minute: int = Field(default=1200, ge=1)
    """Per client address, on routes that need no key."""
    inference_max_body_bytes: int = Field(default=MAX_REQUEST_BODY, ge=1, le=MAX_REQUEST_BODY)
    uploads_open_per_project: int = Field(default=100, ge=1)
    """Maximum of open uploads per project."""
    agents_per_join_key: int = Field(default=100, ge=1)
    """Maximum of agents per join key."""
    agents_per_project: int = Field(default=1000, ge=1)
    """Maximum of agents per project."""
    usage_daily_days: int = Field(default=400, ge=90)
    """How long usage is kept by day; then it is added up by month."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses of proxies whose X-Forwarded-For is trusted."""
    webhooks_allow_private: bool = False
    """True: webhooks may use http and private addresses, including those of this machine."""
    log_format: Literal["text", "json"] = "text"

    connections_total: int | None = Field(default=None, ge=16)
    """Maximum of connections. None: three quarters of the open files that the operating system allows."""
    connections_per_address: int = Field(default=128, ge=1)
    """Maximum of waiting connections per address without a valid key, session or signed link."""
    connections_head_seconds: float = Field(default=10, gt=0)
    """Time limit for the headers of a request."""
    connections_idle_seconds: float = Field(default=75, gt=0)
    """How long an idle connection is kept."""
    connections_stalled_seconds: float = Field(default=30, gt=0)
    """Time limit without progress, for receiving a request and for sending an answer."""
    shutdown_notice_seconds: float = Field(default=5, ge=0)
    """How long a process that is told to stop goes on while `/readyz` answers 503, if there are other processes."""
    connections_stop_seconds: float = Field(default=30, ge=0)
    """How long answers in progress may continue after that."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the API, such as https://app.example.org; `*` allows all."""

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
        """The secret, or the one in the data folder, generated on first use. Raises SettingsError."""
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
        """A copy that includes the secret, so that a running process keeps using one. Raises SettingsError."""
        own = self.signing_secret().decode(errors="surrogateescape")
        return self.model_copy(update={"secret": SecretStr(own)})


def load(environ: Mapping[str, str], file: Path | None = None, **given: Any) -> Settings:
    """Reads the settings. `given` (the command line) overrides the environment, the environment overrides the file.

    Raises SettingsError, which names the setting.
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
            value = _content(variable, value)  # noqa: PLW2901 - the content of the file
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
