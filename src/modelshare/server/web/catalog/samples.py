"""Code samples on a model's page. Pure."""

import json
import shlex
from dataclasses import dataclass
from typing import Any, Final

from modelshare.server.web.install import commands as install
from modelshare.wire.models import CatalogModelDetail
from modelshare.wire.tiers import SELF_HOSTED

_QUESTION: Final = "Hello!"
_ANY_PROJECT: Final = "YOUR_PROJECT_ID"
_ANY_JOIN_KEY: Final = "msj_…"
_EMBEDDED: Final = "answer.data[0].embedding"
_COMPLETED: Final = "answer.choices[0].text"
_ANSWERED: Final = "answer.choices[0].message.content"


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples, by purpose."""

    install: str
    deploy: str
    agent: str
    curl: str
    openai: str


def samples(model: CatalogModelDetail, *, base_url: str, slug: str, project_id: str | None) -> Samples:
    """Samples for an endpoint with this slug. `base_url`: the platform's URL for this client."""
    name = f"{model.owner}/{model.name}"
    endpoint = f"{base_url}/{project_id or _ANY_PROJECT}/{slug}/v1"
    route, body, call, shown = _use(model.task, name)
    sent = shlex.quote(_json(body))
    return Samples(
        install=install.client(base_url),
        deploy=f"export MODELSHARE_URL={shlex.quote(base_url)}\n"
        f"modelshare login\n"
        f"modelshare deploy {shlex.quote(name)} --tier {SELF_HOSTED} --slug {shlex.quote(slug)}",
        agent=install.machine(base_url, _ANY_JOIN_KEY)[0].commands,
        curl=f"curl -s {shlex.quote(f'{endpoint}/{route}')} \\\n"
        f'  -H "Authorization: Bearer $MODELSHARE_API_KEY" \\\n'
        f'  -H "Content-Type: application/json" \\\n'
        f"  -d {sent}",
        openai="import os\n\n"
        "from openai import OpenAI\n\n"
        f'client = OpenAI(\n    base_url={_json(endpoint)},\n    api_key=os.environ["MODELSHARE_API_KEY"],\n)\n'
        f"{call}\n"
        f"print({shown})",
    )


def _use(task: str | None, name: str) -> tuple[str, dict[str, Any], str, str]:
    """Route, body, the official client's call, and the relevant part of the response."""
    given = f"model={_json(name)}"
    if task == "embedding":
        body = {"model": name, "input": _QUESTION}
        return "embeddings", body, f'answer = client.embeddings.create({given}, input="{_QUESTION}")', _EMBEDDED
    if task == "completion":
        body = {"model": name, "prompt": _QUESTION}
        return "completions", body, f'answer = client.completions.create({given}, prompt="{_QUESTION}")', _COMPLETED
    messages = [{"role": "user", "content": _QUESTION}]
    call = f"answer = client.chat.completions.create(\n    {given},\n    messages={_json(messages)},\n)"
    return "chat/completions", {"model": name, "messages": messages}, call, _ANSWERED


def _json(value: Any) -> str:
    """JSON that is also valid Python, since no character is escaped as a surrogate pair."""
    return json.dumps(value, ensure_ascii=False)
