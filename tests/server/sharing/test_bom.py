"""What a version is made of: a CycloneDX document that fits its schema, and Annex XII with each gap named."""

from typing import Any

import httpx
import pytest

from answers import problem
from conftest import Tenant
from factories import add_version, make_model
from modelshare.server.app import Application
from modelshare.server.registry.licenses import describe, spdx_expression
from signing_keys import private_key, register, sign
from uploading import pushed, tiny_model

pytestmark = pytest.mark.anyio
CARD = b"""---
license: {license}
language: [en, de]
datasets: [acme/books, acme/web]
base_model: acme/base
pipeline_tag: text-generation
---
A tiny model for tests.
"""
NUMBERS = ["1(a)", "1(b)", "1(c)", "1(d)", "1(e)", "1(f)", "1(g)", "1(h)", "2(a)", "2(b)", "2(c)"]


async def document(http: httpx.AsyncClient, path: str, kind: str = "cyclonedx") -> dict[str, Any]:
    answer = await http.get(f"{path}/bom", params={"format": kind})
    assert answer.status_code == 200, answer.text
    if kind == "cyclonedx":
        # These two take 2 s, which every process that only collects tests would spend.
        from cyclonedx.schema import SchemaVersion  # noqa: PLC0415
        from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(answer.text) is None
    return dict(answer.json())


@pytest.mark.usefixtures("running_app")
@pytest.mark.parametrize(
    ("stated", "choice"),
    [
        ("apache-2.0", {"license": {"id": "Apache-2.0"}}),
        ("mit or apache-2.0", {"expression": "MIT OR Apache-2.0"}),
        ("gemma", {"license": {"name": "Gemma Terms of Use", "url": "https://ai.google.dev/gemma/terms"}}),
        ("Our own words", {"license": {"name": "Our own words"}}),
    ],
)
async def test_the_bill_of_materials_fits_its_schema(
    owner: Tenant,
    stated: str,
    choice: dict[str, Any],
) -> None:
    files = tiny_model() | {"README.md": CARD.replace(b"{license}", stated.encode())}
    model = await pushed(owner.http, files)
    await register(owner.http, private_key())
    await sign(owner.http, model["id"], private_key())
    bom = await document(owner.http, f"/v1/models/{model['id']}/versions/1.0.0")
    component = bom["metadata"]["component"]
    assert (component["type"], component["group"], component["name"]) == ("machine-learning-model", "acme", "tiny")
    assert component["licenses"] == [choice]
    parameters = component["modelCard"]["modelParameters"]
    assert [each["name"] for each in parameters["datasets"]] == ["acme/books", "acme/web"]
    assert component["pedigree"]["ancestors"][0]["name"] == "acme/base"
    assert {"name": "modelshare:signer", "value": "release"} in component["properties"]
    assert sorted(file["name"] for file in bom["components"]) == sorted(files)
    await owner.http.post(f"/v1/models/{model['id']}/share")
    public = await document(owner.http, f"/v1/catalog/models/{model['id']}")
    assert (public["serialNumber"], public["components"]) == (bom["serialNumber"], bom["components"])


async def test_what_is_not_known_is_left_out_or_named_as_a_gap(
    app: Application, owner: Tenant, anonymous: httpx.AsyncClient
) -> None:
    model = await make_model(app, owner.project.id, license="")
    path = f"/v1/models/{model}/versions/1.0.0"
    assert "licenses" not in (await document(owner.http, path))["metadata"]["component"]
    annex = await document(owner.http, path, "annex-xii")
    fields = {field["number"]: field for field in annex["fields"]}
    assert list(fields) == NUMBERS
    assert all((field["value"] is None) == (field["gap"] is not None) for field in fields.values())
    assert [number for number, field in fields.items() if field["gap"]] == ["1(b)", "1(h)", "2(c)"]
    assert fields["1(f)"]["value"] == "llama; 1,000,000 parameters; Quantization: F32"
    assert problem(await anonymous.get(f"/v1/catalog/models/{model}/bom"))[0] == 404
    assert problem(await anonymous.get(f"{path}/bom"))[0] == 401
    assert (await owner.http.get(f"{path}/bom?format=spdx")).status_code == 400
    await add_version(app, model, "2.0.0", "failed")
    assert (await owner.http.get(f"/v1/models/{model}/versions/2.0.0/bom")).status_code == 409


async def test_the_licence_of_a_model_is_explained(
    app: Application, owner: Tenant, anonymous: httpx.AsyncClient
) -> None:
    model = await make_model(app, owner.project.id, license="llama3.1")
    await owner.http.post(f"/v1/models/{model}/share")
    shown = (await anonymous.get(f"/v1/catalog/models/{model}")).json()["license_details"]
    assert (shown["spdx"], shown["name"], shown["restricts_use"]) == (None, "Llama 3.1 Community License", True)
    page = (await anonymous.get(f"/models/catalog/{model}")).text
    assert "restricts use" in page
    assert f"/v1/catalog/models/{model}/bom?format=annex-xii" in page


@pytest.mark.parametrize(
    ("stated", "spdx", "restricts"),
    [
        ("apache-2.0", "Apache-2.0", False),
        ("MIT", "MIT", False),
        ("cc-by-nc-4.0", "CC-BY-NC-4.0", True),
        ("gemma", None, True),
        ("Gemma", None, True),
        ("BigCode OpenRAIL-M", None, True),
        ("something else", None, None),
        ("((((", None, None),
        ("x" * 10_000, None, None),
    ],
)
def test_licences(stated: str, spdx: str | None, restricts: bool | None) -> None:
    found = describe(stated)
    assert found is not None
    assert (found.spdx, found.restricts_use) == (spdx, restricts)


def test_what_is_no_licence() -> None:
    assert [describe(each) for each in (None, "", "  ", "other", "unknown")] == [None] * 5
    assert spdx_expression("MIT AND (Apache-2.0 OR") is None
