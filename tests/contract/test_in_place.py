"""Objects of others in a bucket with versions, with many objects, and with few rights (moto checks them)."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config

from modelshare.server.storage.bucket import S3Options
from modelshare.server.storage.in_place import DirectInPlaceStore
from modelshare.server.storage.own_bucket import Keys, OwnBucket
from modelshare.server.storage.pins import pinned_key
from modelshare.server.storage_errors import BlobChangedError, BlobNotFoundError, InvalidKeyError, StorageRefusedError
from storage_servers import aws_server

pytestmark = pytest.mark.anyio
BUCKET = "theirs"
PREFIX = "a model"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with aws_server() as url:
        yield url


def client_of(endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        config=Config(request_checksum_calculation="when_required", s3={"addressing_style": "path"}),
    )


@pytest.fixture(params=[True, False], ids=["versions", "no-versions"])
def versioned(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def s3(endpoint: str, versioned: bool) -> Iterator[Any]:
    """A bucket with or without versions."""
    client = client_of(endpoint)
    client.create_bucket(Bucket=BUCKET)
    if versioned:
        client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    yield client
    for page in client.get_paginator("list_object_versions").paginate(Bucket=BUCKET):
        for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
            client.delete_object(Bucket=BUCKET, Key=each["Key"], VersionId=each["VersionId"])
    client.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def store(s3: Any, endpoint: str, tmp_path: Path) -> DirectInPlaceStore:
    own = OwnBucket(f"s3://{BUCKET}/{PREFIX}", Keys("testing", "testing"), allow_private=True)
    options = S3Options(BUCKET, PREFIX, endpoint, "us-east-1", "path")
    return DirectInPlaceStore(options, own=own, scratch=tmp_path, clock=time.time)


def put(s3: Any, path: str, content: bytes) -> None:
    s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}/{path}", Body=content)


async def key_of(store: DirectInPlaceStore, path: str) -> str:
    pin, _ = await store.pin(path)
    return pinned_key(str(pin), path)


async def test_a_version_stays_readable_and_an_object_without_one_does_not(
    s3: Any, store: DirectInPlaceStore, versioned: bool
) -> None:
    put(s3, "w.gguf", b"first")
    put(s3, "folder/", b"")
    assert [(each.path, each.size) for each in await store.find_all()] == [("w.gguf", 5)]
    key = await key_of(store, "w.gguf")
    digest = await store.digest(key)
    url = store.get_url(key, expires_at=int(time.time()) + 60, base_url="")
    reader = await asyncio.to_thread(store.reader, key)
    put(s3, "w.gguf", b"other")
    assert await key_of(store, "w.gguf") != key
    async with httpx.AsyncClient() as http:
        got = (await http.get(url)).content
    if versioned:
        assert (await store.changes([key]), got, await store.digest(key)) == ({}, b"first", digest)
        s3.delete_object(Bucket=BUCKET, Key=f"{PREFIX}/w.gguf")
        assert (await store.changes([key]), reader.read_at(0, 5)) == ({}, b"first"), "a delete marker hides it only"
        version = s3.list_object_versions(Bucket=BUCKET, Prefix=f"{PREFIX}/w")["Versions"][-1]["VersionId"]
        s3.delete_object(Bucket=BUCKET, Key=f"{PREFIX}/w.gguf", VersionId=version)
    else:
        assert await store.changes([key]) == {key: "was replaced"}
        with pytest.raises(BlobChangedError):
            reader.read_at(0, 5)
        with pytest.raises(BlobChangedError):
            await store.digest(key)
        s3.delete_object(Bucket=BUCKET, Key=f"{PREFIX}/w.gguf")
    assert await store.changes([key]) == {key: "is no longer there"}
    with pytest.raises(BlobNotFoundError):
        await store.digest(key)


async def test_of_many_objects_those_that_changed(s3: Any, store: DirectInPlaceStore) -> None:
    for number in range(40):
        put(s3, f"{number}.txt", b"x")
    keys = [await key_of(store, f"{number}.txt") for number in range(40)]
    assert await store.changes(keys) == {}
    for number in (3, 7):
        for each in s3.list_object_versions(Bucket=BUCKET, Prefix=f"{PREFIX}/{number}.")["Versions"]:
            s3.delete_object(Bucket=BUCKET, Key=each["Key"], VersionId=each["VersionId"])
    put(s3, "7.txt", b"y")
    what = (await store.changes(keys)).items()
    assert {key.rpartition("/")[2]: change for key, change in what if key.endswith("/3.txt")} == {
        "3.txt": "is no longer there"
    }
    assert len(what) == 2


@pytest.mark.parametrize("versioned", [False], indirect=True, ids=["no-versions"])
async def test_nothing_is_ever_written(s3: Any, store: DirectInPlaceStore) -> None:
    put(s3, "w.gguf", b"first")
    key = await key_of(store, "w.gguf")
    for writes in (
        store.delete(key),
        store.delete_prefix("x"),
        store.begin(key, 1, 1),
        store.put_file(key, Path("/x")),
    ):
        with pytest.raises(InvalidKeyError):
            await writes
    assert await store.changes([key]) == {}


@pytest.mark.parametrize("versioned", [False], indirect=True, ids=["no-versions"])
async def test_a_bucket_that_is_gone_is_no_change(s3: Any, store: DirectInPlaceStore) -> None:
    put(s3, "w.gguf", b"first")
    key = await key_of(store, "w.gguf")
    s3.delete_object(Bucket=BUCKET, Key=f"{PREFIX}/w.gguf")
    s3.delete_bucket(Bucket=BUCKET)
    with pytest.raises(StorageRefusedError, match="NoSuchBucket"):
        await store.changes([key])
    s3.create_bucket(Bucket=BUCKET)
