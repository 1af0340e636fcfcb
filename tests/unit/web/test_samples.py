"""Code to copy from a model's page does what it says, whatever the model is called."""

import ast
import json
import shlex

from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.web.catalog.samples import samples
from modelshare.wire.models import CatalogModelDetail, CatalogRole

NAMES = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=40)


def detail(name: str, task: str | None) -> CatalogModelDetail:
    unknown = ("display_name", "description", "license", "architecture", "family", "format", "parameters", "card")
    return CatalogModelDetail(
        id="1",
        name=name,
        owner="acme",
        owner_name="Acme",
        tags=[],
        context_length=None,
        quantization=None,
        task=task,
        size_bytes=1,
        version="1.0.0",
        catalog_role=CatalogRole.DEPLOYABLE,
        allowed_tiers=[],
        deployment_count=0,
        featured=False,
        shared_at=0,
        manifest={},
        manifest_digest="",
        versions=[],
        **dict.fromkeys(unknown),
    )


@given(NAMES, st.sampled_from(["chat", "completion", "embedding", "other", None]))
def test_shells_and_python_read_the_name_as_it_is(name: str, task: str | None) -> None:
    found = samples(detail(name, task), base_url="https://models.example", slug="chat", project_id="proj_1")
    curl = shlex.split(found.curl.replace("\\\n", " ", 3))
    assert curl[2].startswith("https://models.example/proj_1/chat/v1/")
    assert json.loads(curl[-1])["model"] == f"acme/{name}"
    assert shlex.split(found.deploy)[6] == f"acme/{name}"
    constants = [node.value for node in ast.walk(ast.parse(found.openai)) if isinstance(node, ast.Constant)]
    assert f"acme/{name}" in constants
    assert "https://models.example/proj_1/chat/v1" in constants
