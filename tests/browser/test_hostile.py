"""Words by people who mean no good, on a phone: they stay words, and stay where they belong."""

import pytest
from playwright.async_api import ViewportSize, expect

from browser.conftest import PageFor
from conftest import Tenant
from factories import make_model
from modelshare.server.app import Application

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("lend", ["sqlite"], indirect=True)]
PHONE: ViewportSize = {"width": 390, "height": 844}
LONG = "W" * 10_000
OVERHANG = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
MARKUP = "<script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'broken'\">"
RTL = "نموذج صغير للدردشة مع نص طويل"


@pytest.mark.parametrize("words", [MARKUP, RTL, LONG], ids=["markup", "rtl", "long"])
async def test_words_stay_words_and_in_their_place(
    app: Application, owner: Tenant, page_for: PageFor, words: str
) -> None:
    model = await make_model(app, owner.project.id, tags=(words[:64],), license=words[:64])
    limits = {"display_name": 200, "description": 2000, "card": 20_000}
    patch = {name: words[:limit] for name, limit in limits.items()}
    assert (await owner.http.patch(f"/v1/models/{model}", json=patch)).is_success
    assert (await owner.http.post(f"/v1/models/{model}/share")).is_success
    assert (await owner.http.post("/v1/keys", json={"name": words[:100]})).is_success
    page = await page_for("ada")
    await page.set_viewport_size(PHONE)
    root = "/dashboard/acme"
    own = f"{root}/models/{model}"
    for path in (
        "/models/catalog",
        f"/models/catalog/{model}",
        *(f"{own}{part}" for part in ("", "/edit", "/share", "/unshare", "/recall", "/delete")),
        *(f"{root}/{part}" for part in ("models", "keys", "audit", "usage", f"endpoints/new?model={model}")),
    ):
        await page.goto(path)
        assert await page.evaluate(OVERHANG) <= 0, path
        assert await page.title() != "broken", path


@pytest.mark.parametrize("count", [0, 1, 60])
async def test_a_catalog_of_any_size(app: Application, owner: Tenant, page_for: PageFor, count: int) -> None:
    for number in range(count):
        model = await make_model(app, owner.project.id, name=f"model-{number}")
        await owner.http.post(f"/v1/models/{model}/share")
    page = await page_for(None)
    await page.set_viewport_size(PHONE)
    await page.goto("/models/catalog")
    cards = page.locator("#results li.model")
    more = page.get_by_role("link", name="More models")
    while await more.count():
        before = await cards.count()
        await more.click()
        await expect(cards.nth(before)).to_be_visible()
    await expect(cards).to_have_count(count)
    assert await page.evaluate(OVERHANG) <= 0
