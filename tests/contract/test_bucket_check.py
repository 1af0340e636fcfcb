"""The check of a project's bucket, against a server that enforces IAM rights one by one, and as a role."""

import asyncio
import contextlib
import http.server
import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from modelshare.server.registry.storages.rules import iam_policy
from modelshare.server.storage.bucket import S3Options
from modelshare.server.storage.bucket_check import BucketCheck, Step
from modelshare.server.storage.in_place import DirectInPlaceStore
from modelshare.server.storage.own_bucket import Keys, OwnBucket, Role
from storage_servers import aws_server

ORIGIN = "https://models.example.org"
POLICY = iam_policy("models", "weights")
EVERY = sorted({action for statement in POLICY["Statement"] for action in statement["Action"]})


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with aws_server() as url:
        client("s3", url).create_bucket(Bucket="models")
        yield url


def client(service: str, url: str) -> Any:
    config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client(service, endpoint_url=url, region_name="us-east-1", config=config, **keys)


def keys_without(url: str, missing: str | None) -> Keys:
    """Of a new user who has all rights of our policy but one."""
    policy = json.loads(json.dumps(POLICY))
    for statement in policy["Statement"]:
        statement["Action"] = [action for action in statement["Action"] if action != missing]
    policy["Statement"] = [statement for statement in policy["Statement"] if statement["Action"]]
    return keys_with(url, f"user-{(missing or 'full').replace(':', '-')}", policy)


def keys_with(url: str, name: str, policy: dict[str, Any]) -> Keys:
    iam = client("iam", url)
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return Keys(key["AccessKeyId"], key["SecretAccessKey"])


@contextlib.contextmanager
def rights_checked(url: str) -> Iterator[None]:
    """While the block runs, every request needs its right."""
    _allow(url, 0)
    try:
        yield
    finally:
        _allow(url, 1_000_000)


def _allow(url: str, requests: int) -> None:
    data, plain = str(requests).encode(), {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{url}/moto-api/reset-auth", data, plain, method="POST")
    with urllib.request.urlopen(request, timeout=10):
        pass


def checked(url: str, identity: Keys | Role, *, direct: bool = False) -> dict[str, Step]:
    """Not direct, since moto knows no rights of presigned URLs: those are checked against rclone (`test_storage`)."""
    options = S3Options("models", "weights", url, None, "path")
    own = OwnBucket("s3://models/weights", identity, allow_private=True)
    with rights_checked(url):
        steps = BucketCheck(options, own, origin=ORIGIN, direct=direct).run()
    return {step.name: step for step in steps}


def left_behind(url: str) -> list[Any]:
    s3 = client("s3", url)
    uploads = s3.list_multipart_uploads(Bucket="models").get("Uploads", [])
    return [*s3.list_objects_v2(Bucket="models").get("Contents", []), *uploads]


def test_the_policy_that_we_show_is_enough(endpoint: str) -> None:
    steps = checked(endpoint, keys_without(endpoint, None))
    assert {step.name: step.message for step in steps.values() if step.state not in {"ok", "skipped"}} == {}
    assert left_behind(endpoint) == []


@pytest.mark.parametrize("missing", EVERY)
def test_a_missing_right_is_named_and_nothing_stays(endpoint: str, missing: str) -> None:
    steps = checked(endpoint, keys_without(endpoint, missing))
    failed = [step for step in steps.values() if step.state == "failed"]
    assert [step.action for step in failed] == [missing]
    assert failed[0].message == f"The bucket denies this. Grant {missing} to the key or role."
    if missing not in {"s3:DeleteObject", "s3:AbortMultipartUpload"}:  # without these, nobody can clean up
        assert left_behind(endpoint) == []
    else:
        s3 = client("s3", endpoint)
        for upload in s3.list_multipart_uploads(Bucket="models").get("Uploads", []):
            s3.abort_multipart_upload(Bucket="models", Key=upload["Key"], UploadId=upload["UploadId"])
        for item in s3.list_objects_v2(Bucket="models").get("Contents", []):
            s3.delete_object(Bucket="models", Key=item["Key"])


def test_an_unknown_key(endpoint: str) -> None:
    steps = checked(endpoint, Keys("AKIAUNKNOWN000000000", "x" * 40))
    assert steps["list"].state == "failed"
    assert "does not accept the access key" in str(steps["list"].message)


class Preflight(http.server.BaseHTTPRequestHandler):
    """Answers every preflight as its path's bucket has it."""

    def do_OPTIONS(self) -> None:
        bucket = self.path.split("/")[1]
        self.send_response(403 if bucket == "none" else 200)
        if bucket != "none":
            self.send_header("Access-Control-Allow-Origin", {"any": "*", "ours": ORIGIN}.get(bucket, "https://x.test"))
            self.send_header("Access-Control-Allow-Methods", "GET" if bucket == "reading" else "GET, PUT")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("bucket", "state"),
    [("any", "ok"), ("ours", "ok"), ("others", "warning"), ("reading", "warning"), ("none", "warning")],
)
def test_cors_that_lets_no_browser_upload_is_a_warning(bucket: str, state: str) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Preflight) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        options = S3Options(bucket, "weights", f"http://127.0.0.1:{server.server_port}", None, "path")
        own = OwnBucket(f"s3://{bucket}/weights", Keys("test", "test"), allow_private=True)
        check = BucketCheck(options, own, origin=ORIGIN, direct=True)
        check._connect()
        check._attempt_cors()
        server.shutdown()
        thread.join()
    (step,) = check._steps
    assert step.state == state
    assert step.message is None or ORIGIN in step.message


def test_as_a_role_with_our_external_id(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    iam = client("iam", endpoint)
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": "*"},
                "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"sts:ExternalId": "modelshare-proj_0"}},
            }
        ],
    }
    role = iam.create_role(RoleName="weights", AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    iam.put_role_policy(RoleName="weights", PolicyName="p", PolicyDocument=json.dumps(POLICY))
    iam.create_user(UserName="platform")
    allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}]}
    iam.put_user_policy(UserName="platform", PolicyName="p", PolicyDocument=json.dumps(allow))
    key = iam.create_access_key(UserName="platform")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    steps = checked(endpoint, Role(role, "modelshare-proj_0"))
    assert {step.name: step.message for step in steps.values() if step.state not in {"ok", "skipped"}} == {}


def test_no_identity_to_assume_a_role_with(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    steps = checked(endpoint, Role("arn:aws:iam::123456789012:role/x", "modelshare-proj_0"))
    assert steps["connect"].state == "failed"
    assert "no AWS identity" in str(steps["connect"].message)


@pytest.mark.parametrize("lists_versions", [True, False])
def test_only_versions_that_can_be_listed_are_pins(endpoint: str, tmp_path: Path, lists_versions: bool) -> None:
    """Otherwise a model of thousands of files could not be granted in time."""
    bucket = f"versioned-{lists_versions}".lower()
    s3 = client("s3", endpoint)
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket=bucket, Key="theirs/w.gguf", Body=b"weights")
    actions = ["s3:ListBucket", "s3:GetObject", "s3:GetObjectVersion", *["s3:ListBucketVersions"] * lists_versions]
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
    own = OwnBucket(f"s3://{bucket}/theirs", keys_with(endpoint, bucket, policy), allow_private=True)
    store = DirectInPlaceStore(S3Options(bucket, "theirs", endpoint, None, "path"), own=own, scratch=tmp_path)
    with rights_checked(endpoint):
        pin, _ = asyncio.run(store.pin("w.gguf"))
    assert (pin.version is not None) == lists_versions
