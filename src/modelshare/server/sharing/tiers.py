"""The tiers of the platform, from the package's TOML file or the operator's."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

from fastapi import Depends
from pydantic import ValidationError

from modelshare.server.http import get_platform
from modelshare.server.registry.storages.stores import RegistryPlatform
from modelshare.server.settings import SettingsError
from modelshare.wire import signing
from modelshare.wire.signers import KEY_ID_PATTERN
from modelshare.wire.tiers import SELF_HOSTED, Tier, TierCategory


class TierRegistry:
    """The tiers by slug, in the file's order. `self_hosted` is always among them, and the only one of its category."""

    def __init__(self, tiers: list[Tier]) -> None:
        self._tiers = {tier.slug: tier for tier in tiers}
        own = [tier.slug for tier in tiers if tier.category is TierCategory.SELF_HOSTED]
        if own != [SELF_HOSTED]:
            raise SettingsError(
                "The tiers file needs exactly one tier of category `self_hosted`, with the slug `self_hosted`."
            )

    def get(self, slug: str) -> Tier | None:
        return self._tiers.get(slug)

    def __iter__(self) -> Iterator[Tier]:
        return iter(self._tiers.values())


@dataclass(frozen=True, kw_only=True)
class SharingPlatform(RegistryPlatform):
    tiers: TierRegistry


SharingPlatformDep = Annotated[SharingPlatform, Depends(get_platform)]


def load(file: Path | None) -> TierRegistry:
    """Reads the tiers. Raises SettingsError for an invalid file."""
    try:
        if file is None:
            text = resources.files("modelshare.server.sharing").joinpath("tiers.toml").read_text(encoding="utf-8")
        else:
            text = file.read_text(encoding="utf-8")
        content = tomllib.loads(text)
        return TierRegistry([_with_key_ids(Tier(slug=slug, **fields)) for slug, fields in content.items()])
    except OSError as error:
        raise SettingsError(f"Cannot read the tiers file {file}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise SettingsError(f"Invalid tiers file {file}: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"Invalid `{first['loc'][0]}` in the tiers file: {first['msg']}.") from error


def _with_key_ids(tier: Tier) -> Tier:
    """With the id of each key that is given itself."""
    try:
        ids = [_key_id(each) for each in tier.allowed_signers]
    except signing.UnusableKeyError as error:
        raise SettingsError(
            f"Invalid `allowed_signers` of the tier `{tier.slug}` in the tiers file: {error}"
        ) from error
    return tier.model_copy(update={"allowed_signers": ids})


def _key_id(text: str) -> str:
    return text if re.match(KEY_ID_PATTERN, text) else signing.key_id(signing.read_public_key(text))
