"""What the agent has to know of the engine inside a replica in order to translate requests for it."""

from typing import Final

import msgspec

from modelshare.agent.deployment import Serving
from modelshare.agent.engines import parameters
from modelshare.agent.engines.counts import DETAILS
from modelshare.agent.engines.relay_rules import RelayPolicy


class Facts(msgspec.Struct, frozen=True):
    """See `RelayPolicy` and `Sharing`."""

    one_by_one: bool
    request_model: str | None
    supports: list[str]
    usage_on_request: bool
    counts_all: bool
    chat_logprobs: bool
    usage_details: list[str]
    context_length: int | None
    ends_streams_only: bool = False
    normalizes: bool | None = None

    def policy(self, public_name: str) -> RelayPolicy:
        return RelayPolicy(
            public_name=public_name,
            request_model=self.request_model,
            supports=frozenset(self.supports),
            usage_on_request=self.usage_on_request,
            counts_all=self.counts_all,
            chat_logprobs=self.chat_logprobs,
            usage_details=frozenset(self.usage_details),
            context_length=self.context_length,
            ends_streams_only=self.ends_streams_only,
            normalizes=self.normalizes,
        )


FACTS: Final = "/facts"
"""The route of a replica that reports them."""


def facts_of(serving: Serving) -> Facts:
    engine, policy = serving.engine, serving.policy
    return Facts(
        engine.sharing.one_by_one,
        policy.request_model,
        sorted(policy.supports),
        policy.usage_on_request,
        policy.counts_all,
        policy.chat_logprobs,
        sorted(policy.usage_details),
        policy.context_length,
        policy.ends_streams_only,
        policy.normalizes,
    )


def vllm_facts(served_name: str, context_length: int | None) -> Facts:
    """Of vLLM behind `ray.serve.llm`, which has no route for them (`engines.vllm`)."""
    return Facts(
        one_by_one=False,
        request_model=served_name,
        supports=sorted(parameters.VLLM),
        usage_on_request=True,
        counts_all=True,
        chat_logprobs=False,
        usage_details=sorted(DETAILS),
        context_length=context_length,
    )
