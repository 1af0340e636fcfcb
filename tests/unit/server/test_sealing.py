"""Secrets at rest: what opens, what does not, and the keys."""

import stat
from pathlib import Path

import pytest
from pydantic import SecretStr

from modelshare.server.sealing import Keyring, SealedError
from modelshare.server.settings import Settings, SettingsError

A, B = "a1" * 32, "b2" * 32
ABOUT = ("proj_1", "storage_1")


def keyring(folder: Path, keys: str | None = None) -> Keyring:
    return Keyring(Settings(data_dir=folder, secret_keys=SecretStr(keys) if keys is not None else None))


def test_the_key_is_made_in_the_data_folder_for_its_owner_only(tmp_path: Path) -> None:
    sealed = keyring(tmp_path / "data").seal("hidden", ABOUT)
    file = tmp_path / "data" / "sealing.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "hidden" not in sealed
    assert keyring(tmp_path / "data").open(sealed, ABOUT) == "hidden"
    assert keyring(tmp_path / "data").seal("hidden", ABOUT) != sealed, "the nonce is random"


@pytest.mark.parametrize("about", [("proj_2", "storage_1"), ("proj_1", "storage_2"), ("proj_1",)])
def test_a_value_in_another_row_does_not_open(tmp_path: Path, about: tuple[str, ...]) -> None:
    sealed = keyring(tmp_path).seal("hidden", ABOUT)
    with pytest.raises(SealedError, match="belongs to another row"):
        keyring(tmp_path).open(sealed, about)


def test_a_changed_value_does_not_open(tmp_path: Path) -> None:
    sealed = keyring(tmp_path).seal("hidden", ABOUT)
    with pytest.raises(SealedError, match="was changed"):
        keyring(tmp_path).open(sealed[:-8] + ("AAAAAAA=" if sealed[-8:] != "AAAAAAA=" else "BBBBBBB="), ABOUT)


def test_the_first_key_seals_and_all_open(tmp_path: Path) -> None:
    old = keyring(tmp_path, A).seal("hidden", ABOUT)
    both = keyring(tmp_path, f"{B},{A}")
    assert both.open(old, ABOUT) == "hidden"
    assert keyring(tmp_path, B).open(both.seal("hidden", ABOUT), ABOUT) == "hidden"
    with pytest.raises(SealedError, match="is missing"):
        keyring(tmp_path, B).open(old, ABOUT)


@pytest.mark.parametrize("keys", ["", "secret", A[:-1], f"{A} {B}x", "g" * 64])
def test_invalid_keys(tmp_path: Path, keys: str) -> None:
    with pytest.raises(SettingsError, match="64 hex digits"):
        keyring(tmp_path, keys)


def test_a_rotated_key_is_used_by_who_runs_already(tmp_path: Path) -> None:
    running, rotating = keyring(tmp_path), keyring(tmp_path)
    old = running.seal("hidden", ABOUT)
    rotating.add_key()
    fresh = rotating.seal("hidden", ABOUT)
    rotating.forget_old()
    assert old.partition(".")[0] != fresh.partition(".")[0]
    assert running.open(fresh, ABOUT) == running.open(old, ABOUT) == "hidden"
    rotating.add_key()
    rotating.forget_old()
    with pytest.raises(SealedError, match="is missing"):
        running.open(old, ABOUT)
