#!/usr/bin/env bash
# Writes the lock files anew: versions and hashes, no index addresses. `make lock` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
  local output=$1
  shift
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
    --no-emit-index-url --no-emit-find-links --output-file "$output" "$@"
}
compile requirements/run.txt pyproject.toml requirements/build.in --extra server --extra agent --extra s3 \
  --extra demo
compile requirements/test.txt pyproject.toml requirements/build.in --constraint requirements/run.txt \
  --extra server --extra agent --extra s3 --extra demo --extra test --extra lint
# The library that embeddings are compared with, alone: torch, which it asks for, comes from elsewhere (transformers.in).
compile requirements/reference.txt --no-deps requirements/reference.in
# What a platform gives those who install its client or its agent; inside the package, since it serves them.
served=src/modelshare/server/web/install
compile "$served/requirements-client.txt" pyproject.toml --constraint requirements/run.txt
compile "$served/requirements-agent.txt" pyproject.toml --constraint requirements/run.txt --extra agent
