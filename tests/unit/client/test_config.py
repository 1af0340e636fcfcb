import json
import stat
from pathlib import Path

import pytest

from modelshare.client.config import DEFAULT_URL, Config, checked_key, config_path, load, normalized_url, read, save
from modelshare.client.errors import ConfigError

STORED = Config("https://models.example.org", "ms_stored")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"MODELSHARE_CONFIG": str(tmp_path / "folder" / "config.json")}


def test_without_anything_it_is_the_local_platform_without_a_key(environ: dict[str, str]) -> None:
    assert load(environ) == Config(DEFAULT_URL, None)


def test_given_wins_over_environment_wins_over_file(environ: dict[str, str]) -> None:
    save(config_path(environ), STORED)
    assert load(environ) == STORED
    environ |= {"MODELSHARE_URL": "http://env:1", "MODELSHARE_API_KEY": "ms_env"}
    assert load(environ) == Config("http://env:1", "ms_env")
    assert load(environ, url="http://given:2/", api_key="ms_given") == Config("http://given:2", "ms_given")


def test_the_files_key_goes_to_the_files_url_only(environ: dict[str, str]) -> None:
    save(config_path(environ), STORED)
    assert load(environ, url="https://other.example.org").api_key is None
    assert load(environ, url=STORED.url + "/").api_key == "ms_stored"


def test_a_key_from_the_environment_goes_to_the_files_url(environ: dict[str, str]) -> None:
    save(config_path(environ), STORED)
    assert load({**environ, "MODELSHARE_API_KEY": "ms_env"}) == Config(STORED.url, "ms_env")


def test_the_file_is_for_its_owner_only(environ: dict[str, str]) -> None:
    path = config_path(environ)
    save(path, Config("http://old", "ms_old"))
    path.chmod(0o644)
    save(path, STORED)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read(path) == STORED
    assert [file.name for file in path.parent.iterdir()] == ["config.json"]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "config.json"
    (target / "taken").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        save(target, STORED)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"url": 1, "api_key": null}', "\x00", '{"url": "x"}'])
def test_a_broken_file_says_what_to_do(environ: dict[str, str], content: str) -> None:
    path = config_path(environ)
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ConfigError, match="modelshare login"):
        load(environ)


def test_a_file_without_a_key_is_fine(environ: dict[str, str]) -> None:
    path = config_path(environ)
    path.parent.mkdir()
    path.write_text(json.dumps({"url": "http://a", "api_key": None}))
    assert load(environ) == Config("http://a", None)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://a", "http://", "http://a:99999", "http://[a", "//a"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is not a valid platform URL"):
        normalized_url(url)


@pytest.mark.parametrize("key", ["", "  ", "ms_a b", "ms_ä", "ms_a\nX-Evil: 1"])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="API key"):
        checked_key(key)


def test_blanks_around_a_key_are_dropped() -> None:
    assert checked_key(" ms_abc\n") == "ms_abc"


def test_the_default_file_follows_xdg() -> None:
    assert config_path({"XDG_CONFIG_HOME": "/x"}) == Path("/x/modelshare/config.json")
    assert config_path({}) == Path.home() / ".config/modelshare/config.json"


def test_a_configuration_does_not_show_its_key() -> None:
    assert "ms_stored" not in repr(STORED)
