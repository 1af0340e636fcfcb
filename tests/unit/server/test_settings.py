"""Where settings come from, which one wins, and that each is documented."""

import re
import secrets
from pathlib import Path

import pytest
from pydantic import SecretStr

from modelshare.server.settings import Settings, SettingsError, load

SECRET = secrets.token_hex(16)
DOCS = Path(__file__).parents[3] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str, name: str = "modelshare.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_set_takes_the_defaults() -> None:
    assert load({"PATH": "/bin"}) == Settings()


def test_the_file(working_folder: Path) -> None:
    write(working_folder, 'port = 9000\ntrusted_proxies = ["10.0.0.1"]\n[catalog]\npromotion = "off"\n')
    settings = load({})
    assert (settings.port, settings.catalog_promotion, settings.trusted_proxies) == (9000, False, ("10.0.0.1",))


def test_a_file_that_is_named(working_folder: Path) -> None:
    assert load({}, write(working_folder, "port = 9001", "other.toml")).port == 9001
    with pytest.raises(SettingsError, match=r"missing\.toml does not exist"):
        load({}, working_folder / "missing.toml")


def test_the_environment() -> None:
    settings = load(
        {
            "MODELSHARE_PORT": "9002",
            "MODELSHARE_DATA_DIR": "/srv/models",
            "MODELSHARE_MODELS_ALLOW_PICKLE": "true",
            "MODELSHARE_TRUSTED_PROXIES": "10.0.0.1, 10.0.0.2",
            "MODELSHARE_TIERS_FILE": "/etc/tiers.toml",
        }
    )
    assert (settings.port, settings.data_dir, settings.models_allow_pickle) == (9002, Path("/srv/models"), True)
    assert settings.trusted_proxies == ("10.0.0.1", "10.0.0.2")
    assert settings.tiers_file == Path("/etc/tiers.toml"), "the setting, not a file that holds `tiers`"


def test_an_empty_variable_counts_as_none() -> None:
    assert load({"MODELSHARE_DATABASE_URL": "", "MODELSHARE_PORT": ""}) == Settings()


def test_a_file_that_holds_the_value(working_folder: Path) -> None:
    path = write(working_folder, f"{SECRET}\n", "secret")
    settings = load({"MODELSHARE_SECRET_FILE": str(path)})
    assert settings.secret == SecretStr(SECRET)
    assert settings.signing_secret() == SECRET.encode()
    assert SECRET not in repr(settings)
    proxies = write(working_folder, "10.0.0.1,10.0.0.2", "proxies")
    assert load({"MODELSHARE_TRUSTED_PROXIES_FILE": str(proxies)}).trusted_proxies == ("10.0.0.1", "10.0.0.2")


def test_who_wins(working_folder: Path) -> None:
    write(working_folder, 'port = 1\nhost = "file"\ngrants_seconds = 1\n')
    settings = load({"MODELSHARE_PORT": "2", "MODELSHARE_HOST": "environment"}, port=3, host=None)
    assert (settings.port, settings.host, settings.grants_seconds) == (3, "environment", 1)


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"MODELSHARE_PROT": "1"}, "prot"),
        ({"MODELSHARE_PORT": "many"}, "port"),
        ({"MODELSHARE_PORT": "70000"}, "port"),
        ({"MODELSHARE_CATALOG_PROMOTION": "maybe"}, "catalog_promotion"),
        ({"MODELSHARE_UPLOADS_PART_SIZE": "1"}, "uploads_part_size"),
        ({"MODELSHARE_DATABASE_URL": "mysql://x/y"}, "database_url"),
        ({"MODELSHARE_SECRET_FILE": "/does/not/exist"}, "MODELSHARE_SECRET_FILE"),
        ({"MODELSHARE_SECRET": "a", "MODELSHARE_SECRET_FILE": "/b"}, "MODELSHARE_SECRET_FILE"),
        ({"MODELSHARE_NOTHING_FILE": "modelshare.toml"}, "MODELSHARE_NOTHING_FILE"),
    ],
)
def test_a_wrong_setting_is_named(environ: dict[str, str], names: str) -> None:
    with pytest.raises(SettingsError, match=names):
        load(environ)


@pytest.mark.parametrize("text", ["[catalog]\npromo = 1", "prot = 1", "port = 'x'", "port = ", "[port]\nx = 1"])
def test_a_wrong_file_is_named(working_folder: Path, text: str) -> None:
    write(working_folder, text)
    with pytest.raises(SettingsError, match=r"catalog_promo|prot|port|modelshare\.toml"):
        load({})


def test_a_file_that_cannot_be_read(working_folder: Path) -> None:
    (working_folder / "modelshare.toml").mkdir()
    with pytest.raises(SettingsError, match=r"modelshare\.toml"):
        load({})
    (working_folder / "secret").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="MODELSHARE_SECRET_FILE"):
        load({"MODELSHARE_SECRET_FILE": "secret"}, write(working_folder, "", "empty.toml"))


@pytest.mark.parametrize("name", ["URL", "API_KEY", "CONFIG", "JOIN_KEY", "JOIN_KEY_FILE", "ENGINE_ENV"])
def test_what_the_client_reads_is_no_setting(name: str) -> None:
    assert load({f"MODELSHARE_{name}": "x"}) == Settings()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("postgresql://u:p@h/n", "postgresql+asyncpg://u:p@h/n"),
        ("postgres://h/n", "postgresql+asyncpg://h/n"),
        ("sqlite:///x.db", "sqlite+aiosqlite:///x.db"),
    ],
)
def test_database_urls(given: str, wanted: str) -> None:
    assert Settings(database_url=given).database == wanted


def test_every_setting_is_documented_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`)? ?\| (.+) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    documented = {name: default for name, default, _ in rows}
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert list(documented) == list(defaults)
    for name, default in defaults.items():
        shown = "" if default in {None, ()} else str(default).lower() if isinstance(default, bool) else str(default)
        assert documented[name] == shown, name


def test_what_is_no_origin() -> None:
    for value in ("app.example.org", "https://app.example.org/", "https://a/b", "https://*.example.org", "null"):
        with pytest.raises(SettingsError, match="cors_origins"):
            load({"MODELSHARE_CORS_ORIGINS": f"https://app.example.org, {value}"})
    found = load({"MODELSHARE_CORS_ORIGINS": "https://app.example.org, http://localhost:3000"})
    assert found.cors_origins == ("https://app.example.org", "http://localhost:3000")
