"""The tiers file of an operator."""

from importlib import resources
from pathlib import Path

import pytest

from modelshare.server.settings import SettingsError
from modelshare.server.sharing import tiers
from modelshare.wire.tiers import Tier

BUILT_IN = resources.files("modelshare.server.sharing").joinpath("tiers.toml").read_text(encoding="utf-8")


def load(tmp_path: Path, text: str) -> Tier:
    """The tier `self_hosted` with this added."""
    file = tmp_path / "tiers.toml"
    file.write_text(BUILT_IN + text, encoding="utf-8")
    tier = tiers.load(file).get("self_hosted")
    assert tier is not None
    return tier


def test_a_queue_with_weights_that_nobody_else_sees(tmp_path: Path) -> None:
    tier = load(tmp_path, "queue_seconds = 2.5\n[self_hosted.weights]\nproj_0123456789ab = 4\n")
    assert (tier.queue_seconds, tier.weights) == (2.5, {"proj_0123456789ab": 4})
    assert "proj_" not in tier.model_dump_json()
    assert load(tmp_path, "").queue_seconds == 0


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("queue_seconds = -1", "queue_seconds"),
        ("queue_seconds = 601", "queue_seconds"),
        ("queue_seconds = nan", "queue_seconds"),
        ("[self_hosted.weights]\nacme = 1", "weights"),
        ("[self_hosted.weights]\nproj_0123456789ab = 0", "weights"),
        ("[self_hosted.weights]\nproj_0123456789ab = nan", "weights"),
        ("[self_hosted.weights]\nproj_0123456789ab = inf", "weights"),
    ],
)
def test_what_is_no_queue(tmp_path: Path, text: str, name: str) -> None:
    with pytest.raises(SettingsError, match=f"Invalid `{name}` in the tiers file"):
        load(tmp_path, text)
