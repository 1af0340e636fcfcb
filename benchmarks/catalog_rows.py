"""Fills a database with shared models as real hubs have them: few families have most of them, few are deployed."""

import asyncio
import itertools
import random
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import asyncpg
import msgspec

from modelshare.server.ids import new_id
from modelshare.server.sharing.search.index import entry_of
from modelshare.server.sharing.search.spelling import can_be_corrected, forms

FAMILIES = (
    *("llama", "qwen", "mistral", "gemma", "bert", "phi", "falcon", "gpt", "whisper", "t5", "deepseek"),
    *("mixtral", "stablelm", "bloom", "opt", "roberta", "clip", "vit", "wav2vec", "yolo", "sdxl"),
    *("starcoder", "codellama", "granite", "olmo", "internlm", "baichuan", "yi", "mpt", "pythia", "rwkv"),
    *("mamba", "command", "jamba", "nemotron", "solar", "zephyr", "vicuna", "orca", "dolphin"),
)
KINDS = (
    *("instruct", "chat", "base", "code", "math", "vision", "embed", "reasoning", "long", "tool"),
    *("medical", "legal", "finance", "story", "translate"),
)
MAKERS = (*("finetune", "merge", "quantized", "distilled", "lora", "dpo", "sft", "merged", "abliterated", "exp"),)
LICENSES = ("apache-2.0", "mit", "llama3", "gemma", "cc-by-4.0", "cc-by-nc-4.0", "openrail", "bsd", "other", "gpl-3.0")
FORMATS = ("safetensors", "gguf")
SIZES = (0.1, 0.5, 1.1, 1.5, 3.0, 3.8, 7.2, 8.0, 9.0, 13.0, 14.0, 27.0, 32.0, 34.0, 70.0, 72.0, 123.0, 405.0)
CONTEXTS = (512, 2048, 4096, 8192, 16384, 32768, 131072, 262144, 1048576)
SYLLABLES = (
    *("ba", "co", "di", "fu", "ga", "he", "ki", "lo", "mu", "na", "pe", "ri", "so", "ta", "vu", "wa"),
    *("xi", "yo", "ze", "qua"),
)
PROJECTS = 2_000
BATCH = 5_000
RARE = 20_000
"""One in so many has a word that nothing else has."""
LARGE = "ix_catalog_entries_terms_vector"


@dataclass
class Made:
    """What `entry_of` reads, and the id of the version."""

    model_id: uuid.UUID
    version_id: uuid.UUID
    project_id: str
    owner: str
    name: str
    display_name: str | None
    description: str
    tags: list[str]
    license: str | None
    audience: str
    role: str
    deployment_count: int
    shared_tier_endpoints: int
    version: str
    format: str
    architecture: str
    family: str
    parameters: int
    context_length: int


def models(start: int, end: int) -> Iterator[Made]:
    """The models from `start` to `end`; the same ones every time."""
    dice = random.Random(start)
    described = vocabulary()
    tags = [*KINDS, *described[:400]]
    for n in range(start, end):
        family, kind, size = _skewed(dice, FAMILIES), _skewed(dice, KINDS), dice.choice(SIZES)
        role = "shared" if dice.random() < 0.02 else "deployable"
        deployed = int(dice.paretovariate(1.0)) if dice.random() < 0.05 or role == "shared" else 0
        project = int(dice.paretovariate(0.6)) % PROJECTS
        rare = f" rare{n // RARE}x" if n % RARE == 0 else ""
        words = " ".join(_skewed(dice, described) for _ in range(12))
        yield Made(
            model_id=new_id(),
            version_id=new_id(),
            project_id=f"proj_{project:012x}",
            owner=f"owner-{project}",
            name=f"{family}-{dice.randint(1, 4)}-{size}b-{kind}-{_skewed(dice, MAKERS)}-{n:06}",
            display_name=None,
            description=f"A {kind} model made from {family}, {words}{rare}.",
            tags=sorted({_skewed(dice, tags) for _ in range(dice.randint(1, 7))}),
            license=_skewed(dice, LICENSES) if dice.random() < 0.9 else None,
            audience="targeted" if dice.random() < 0.01 else "public",
            role=role,
            deployment_count=deployed,
            shared_tier_endpoints=int(role == "shared"),
            version="1.0.0",
            format=_skewed(dice, FORMATS),
            architecture=f"{family.title()}ForCausalLM",
            family=family,
            parameters=int(size * 10**9),
            context_length=dice.choice(CONTEXTS),
        )


def _skewed(dice: random.Random, values: Sequence[str]) -> str:
    """The first ones far more often."""
    return values[int(len(values) * dice.random() ** 3)]


Tables = dict[str, tuple[tuple[str, ...], list[tuple[Any, ...]]]]
"""By table: columns and rows."""


def once() -> Tables:
    """The projects; and the words for corrections, as the platform would have learned them one model after another."""
    rows = [(f"proj_{n:012x}", f"Owner {n}", f"owner-{n}", 1) for n in range(PROJECTS)]
    words = filter(can_be_corrected, {*FAMILIES, *KINDS, *MAKERS, *vocabulary()})
    known = [(form, word) for word in words for form in forms(word)]
    return {
        "projects": (("id", "name", "slug", "created_at"), cast("list[tuple[Any, ...]]", rows)),
        "catalog_words": (("form", "word"), cast("list[tuple[Any, ...]]", known)),
    }


def vocabulary() -> list[str]:
    """Words of descriptions, the frequent ones first."""
    words = ["".join(word) for length in (2, 3) for word in itertools.product(SYLLABLES, repeat=length)]
    random.Random(1).shuffle(words)
    return words


def rows_of(made: Sequence[Made], first: int) -> Tables:
    """All rows of these models; `first`: the number of the first entry."""
    names = ("id", "project_id", "name", "display_name", "description", "tags", "license", "created_at")
    counts = ("active_endpoints", "foreign_endpoints", "shared_tier_endpoints")
    facts = ("format", "architecture", "family", "parameters", "context_length", "created_at")
    version = ("id", "model_id", "version", "status", "is_latest", "make_latest", "manifest", "facts", "size_bytes")
    share = ("model_id", "role", "featured", "shared_at", "deployment_count", "shared_tier_endpoints", "audience")
    entries = [
        {"id": n, "model_id": each.model_id, **entry_of(cast("Any", each), ()), "is_learned": True}
        for n, each in enumerate(made, first)
    ]
    return {
        "models": (
            (*names, *counts),
            [
                (
                    *(each.model_id, each.project_id, each.name, None, each.description, _json(each.tags)),
                    *(each.license, 1, each.deployment_count, 0, each.shared_tier_endpoints),
                )
                for each in made
            ],
        ),
        "model_versions": (
            (*version, *facts),
            [
                (
                    *(each.version_id, each.model_id, "1.0.0", "ready", True, True, b"{}", "{}", each.parameters * 2),
                    *(each.format, each.architecture, each.family, each.parameters, each.context_length, 1),
                )
                for each in made
            ],
        ),
        "shares": (
            share,
            [
                (each.model_id, each.role, False, n, each.deployment_count, each.shared_tier_endpoints, each.audience)
                for n, each in enumerate(made, first)
            ],
        ),
        "catalog_entries": (tuple(entries[0]), [tuple(each.values()) for each in entries]),
    }


def _json(values: object) -> str:
    return msgspec.json.encode(values).decode()


def fill_sqlite(path: Path, start: int, end: int) -> None:
    """By the triggers, as the platform does."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("PRAGMA cache_size=-400000")

    def write(tables: Tables) -> None:
        for table, (columns, rows) in tables.items():
            marks = ", ".join("?" * len(columns))
            stored = ([value.hex if isinstance(value, uuid.UUID) else value for value in row] for row in rows)
            connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", stored)

    if start == 0:
        write(once())
    for first, made in _batches(start, end):
        write(rows_of(made, first + 1))
        connection.commit()
    connection.execute("PRAGMA optimize")
    connection.execute("ANALYZE")
    connection.commit()
    connection.close()


def fill_postgres(url: str, start: int, end: int) -> None:
    """With the large index made anew afterwards: that is a matter of seconds."""
    asyncio.run(_fill_postgres(url, start, end))


async def _fill_postgres(url: str, start: int, end: int) -> None:
    connection = await asyncpg.connect(url)
    index = await connection.fetchval("SELECT indexdef FROM pg_indexes WHERE indexname = $1", LARGE)
    await connection.execute(f"DROP INDEX {LARGE}")

    async def write(tables: Tables) -> None:
        for table, (columns, rows) in tables.items():
            await connection.copy_records_to_table(table, columns=columns, records=rows)

    if start == 0:
        await write(once())
    for first, made in _batches(start, end):
        await write(rows_of(made, first + 1))
    await connection.execute("SET maintenance_work_mem = '1GB'")
    await connection.execute(index)
    await connection.execute("SELECT setval('catalog_entries_id_seq', (SELECT max(id) FROM catalog_entries))")
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


def _batches(start: int, end: int) -> Iterator[tuple[int, list[Made]]]:
    making = models(start, end)
    for first in range(start, end, BATCH):
        yield first, list(itertools.islice(making, BATCH))
