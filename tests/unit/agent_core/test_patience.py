import tomllib
from importlib import resources

from modelshare.agent.deployments import RELEASE_SECONDS


def test_what_an_agent_lets_go_of_ends_as_late_as_any_tier_allows() -> None:
    tiers = tomllib.loads(resources.files("modelshare.server.sharing").joinpath("tiers.toml").read_text())
    assert max(tier["request_timeout_seconds"] for tier in tiers.values()) <= RELEASE_SECONDS
