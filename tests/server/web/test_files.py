"""The pages of a version that holds several models."""

import httpx
import pytest

from conftest import Tenant
from page_texts import lines
from server.web.conftest import ON_BOTH_DATABASES, Somebody
from unit.registry.samples import llama_gguf
from uploading import pushed

pytestmark = pytest.mark.anyio
FILES = {
    "Q4/model.gguf": llama_gguf(**{"tokenizer.chat_template": "x"}),
    "Q8/model.gguf": llama_gguf(**{"tokenizer.chat_template": "x", "general.file_type": 7}),
}


@ON_BOTH_DATABASES
@pytest.mark.usefixtures("running_app")
async def test_the_models_are_shown_and_an_endpoint_chooses(
    anonymous: httpx.AsyncClient, colleague: Somebody, project: str, owner: Tenant
) -> None:
    model = await pushed(owner.http, FILES)
    assert (await owner.http.post(f"/v1/models/{model['id']}/share")).status_code == 200
    shown = lines(await anonymous.get(f"/models/catalog/{model['id']}"))
    assert all(words in shown for words in ("Models in this version", "Q4/model.gguf", "Q8/model.gguf", "Q8_0"))

    page = f"/dashboard/{project}/endpoints"
    await colleague.post(f"{page}/new", model="acme/tiny", tier="self_hosted", slug="chat", version="latest")
    form = await colleague.get(f"{page}/chat")
    assert "Q8/model.gguf (Q8_0)" in form.text
    spec = {"tier": "self_hosted", "version": "latest"}
    for file in ("Q8/model.gguf", "-"):
        await colleague.post(f"{page}/chat/change", **spec, file=file)
        shown = (await colleague.get(f"{page}/chat")).text
        assert ("<dt>File</dt><dd><bdi>Q8/model.gguf</bdi></dd>" in shown) is (file != "-")
