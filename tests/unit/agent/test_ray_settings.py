"""The settings for a Ray cluster, and what is said about its state."""

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.agent.engines.relay_rules import RelayPolicy
from modelshare.agent.engines.sharing import Sharing
from modelshare.agent.ray_serve.copies import Copies
from modelshare.agent.ray_serve.facts import Facts, facts_of
from modelshare.agent.ray_serve.keys import KeyCheck, Message, Scope, is_key, key_digest
from modelshare.agent.ray_serve.llm_config import llm_config
from modelshare.agent.ray_serve.messages import Copy, Deploy, from_agent, line
from modelshare.agent.ray_serve.reasons import busy, error_in, missing_room
from modelshare.agent.ray_serve.settings import Needs, RaySettings, Replicas, Resources, in_words, read_settings
from modelshare.wire.link import DesiredDeployment

GIB = 1 << 30
WANTED = DesiredDeployment(
    "dep_1", "sha256:" + "a" * 64, "acme/tiny", "1.0.0", "safetensors", "LlamaForCausalLM", "chat", 2048, None, [], 4
)
DOCUMENT = Path(__file__).parents[3] / "docs" / "ray.md"


def test_the_documented_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "ray.toml"
    file.write_text(DOCUMENT.read_text().partition("```toml\n")[2].partition("```")[0])
    settings = read_settings(file)
    assert settings.replicas == Replicas(1, 4, target_requests=4)
    assert settings.needs == Needs(cpus=8, gpus=0, memory_gib=16)
    assert settings.vllm == {"max_model_len": 8192}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("replica = 2", "unknown field `replica`"),
        ("[replicas]\nmin = 3\nmax = 2", "`max` is smaller than `min`"),
        ("[replicas]\nmin = 0", ">= 1"),
        ('address = "ray://head:10001"', "matching regex"),
        ('ingress = "head"', "matching regex"),
        ("address =", "Invalid value"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "ray.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=problem) as raised:
        read_settings(file)
    assert str(raised.value).startswith(f"{file}: ")


@given(st.integers(0, 1 << 42))
def test_a_replica_without_a_gpu_has_memory_for_its_weights(weights: int) -> None:
    needs = RaySettings().resources(weights)
    assert needs.memory > weights
    assert 1 <= needs.cpus <= 8
    assert needs.gpus == 0


def test_what_the_operator_says_counts() -> None:
    assert RaySettings(needs=Needs(cpus=0.5, memory_gib=2)).resources(100 * GIB) == Resources(0.5, 0, 2 * GIB)
    assert RaySettings(needs=Needs(gpus=2)).resources(100 * GIB) == Resources(1, 2, 0)
    assert RaySettings(engine="vllm").resources(100 * GIB) == Resources(1, 1, 0)


def test_resources_in_words() -> None:
    assert in_words({"CPU": 1}) == "1 CPU"
    assert in_words({"CPU": 0.5, "GPU": 2}) == "0.5 CPUs and 2 GPUs"
    assert in_words({"CPU": 4, "GPU": 1, "memory": 12e9}) == "4 CPUs, 1 GPU and 12.0 GB of memory"


def test_missing_room_names_what_the_nodes_lack() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "memory": 4e9}},
        {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0, "memory": 64e9}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0, "memory": 640e9}},
    ]
    assert missing_room(nodes, Resources(2, 1, 0)) is None
    assert missing_room(nodes, Resources(4, 1, 0)) == (
        "No node of the Ray cluster has room for a replica, which needs 4 CPUs and 1 GPU; the most that a node has is "
        "8 CPUs and 1 GPU, not all of it on one node. Add a node, or change `needs` in the settings for Ray."
    )
    assert "1 CPU and 1 GPU are free" in busy({"CPU": 1.0, "GPU": 1.0}, Resources(4, 1, 0))


def test_the_error_in_what_serve_says() -> None:
    told = """The deployment failed to start 1 times in a row. Error:
ray::ServeReplica:a:replica.initialize_and_get_metadata() (pid=7, ip=192.0.2.2, actor_id=8)
  File "node.py", line 130, in start
modelshare.agent.engines.base.EngineError: The download of model.gguf failed.
"""
    assert error_in(told) == "The download of model.gguf failed."
    assert error_in("ray::X()\nModuleNotFoundError: No module named 'modelshare'").startswith("modelshare is not inst")
    assert error_in("It has no replicas.") == "It has no replicas."
    assert error_in("") == "Ray Serve gives no reason."


def test_a_key_is_known_by_its_digest() -> None:
    assert is_key("Bearer secret", key_digest("secret"))
    assert not is_key("Bearer other", key_digest("secret"))
    assert not is_key("", key_digest("secret"))


@pytest.mark.anyio
@pytest.mark.parametrize(("header", "status"), [(b"Bearer secret", 200), (b"Bearer other", 401), (None, 401)])
async def test_only_requests_with_the_key_pass_the_check(header: bytes | None, status: int) -> None:
    sent: list[Message] = []

    async def app(scope: Scope, receive: object, send: object) -> None:
        del scope, receive, send
        sent.append({"status": 200})

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [] if header is None else [(b"authorization", header)]
    check = KeyCheck(app, key_digest("secret"))
    await check({"type": "http", "headers": headers}, None, send)
    assert sent.pop(0)["status"] == status
    if status == 401:
        sent.clear()
        await check({"type": "websocket", "headers": headers}, None, send)
        assert sent == [{"type": "websocket.close"}]


def test_the_agent_learns_of_everything_that_requests_are_translated_by() -> None:
    policy = RelayPolicy(
        public_name="acme/tiny",
        request_model="tiny",
        supports=frozenset({"seed"}),
        usage_on_request=False,
        ends_streams_only=True,
        counts_all=True,
        chat_logprobs=True,
        usage_details=frozenset(),
        context_length=7,
        normalizes=True,
    )
    of_embedding_models = {"texts", "finish"}
    changed = [each.name for each in fields(RelayPolicy) if getattr(policy, each.name) != each.default]
    assert {each.name for each in fields(RelayPolicy)} - set(changed) == of_embedding_models
    serving: Any = SimpleNamespace(engine=SimpleNamespace(sharing=Sharing(slots=1)), policy=policy)
    told = msgspec.json.encode(facts_of(serving))
    assert msgspec.json.decode(told, type=Facts).policy("acme/tiny") == policy


def test_vllm_uses_the_gpus_of_one_node_and_the_operators_arguments() -> None:
    settings = RaySettings(engine="vllm", needs=Needs(gpus=2, cpus=4), vllm={"max_model_len": 8192})
    plan = Deploy(WANTED, settings, 256, key_digest("secret"))
    config = llm_config(plan, settings.resources(GIB), {"min_replicas": 1})
    assert config["engine_kwargs"] == {"tensor_parallel_size": 2, "max_model_len": 8192}
    assert config["placement_group_config"] == {"bundles": [{"CPU": 2.0, "GPU": 1}] * 2, "strategy": "STRICT_PACK"}
    assert config["deployment_config"]["autoscaling_config"] == {"min_replicas": 1}
    assert config["callback_config"]["callback_kwargs"] == {"plan": plan}


def test_no_message_to_the_cluster_has_the_key() -> None:
    plan = Deploy(WANTED, RaySettings(), 4, key_digest("secret"))
    assert from_agent(line(plan)) == plan
    assert b"secret" not in line(plan)


def test_nodes_with_weights_are_remembered_until_all_have_deleted_them(tmp_path: Path) -> None:
    copies = Copies(tmp_path, "dep_1")
    assert copies.read() == []
    for copy in (Copy("a", "one"), Copy("b", "two"), Copy("a", "one")):
        copies.add(RaySettings(), copy)
    (made,) = Copies(tmp_path, "dep_1").read()
    assert len(made.copies) == 2
    assert made.lost(["a", "c"]) == ["two"]
    assert made.lost(["b", "a"]) == []
    copies.remove(made)
    assert copies.read() == []
    assert not copies.file.exists()


def test_nodes_of_another_cluster_are_remembered_with_the_settings_that_lead_there(tmp_path: Path) -> None:
    copies, before, now = Copies(tmp_path, "dep_1"), RaySettings("old:6379"), RaySettings("new:6379", cache="/weights")
    copies.add(before, Copy("a", "one"))
    copies.add(now, Copy("b", "two"))
    assert [(made.settings, made.copies) for made in copies.read()] == [
        (before, [Copy("a", "one")]),
        (now, [Copy("b", "two")]),
    ]
    copies.remove(copies.read()[0])
    assert [made.settings for made in copies.read()] == [now]
