"""The desired state that the server would send for given files."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from modelshare.server.registry import file_selection
from modelshare.server.registry.inspection import Facts, FileReader, inspect
from modelshare.server.registry.manifest import Manifest, ManifestFile, canonical_bytes
from modelshare.server.registry.tables import VersionRow
from modelshare.wire.link import DeploymentFile, DesiredDeployment

Files = Mapping[str, bytes]


def write(folder: Path, files: Files) -> None:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def inspected(folder: Path, files: Files) -> Facts:
    write(folder, files)
    return inspect({path: FileReader(folder / path) for path in files})


def version_of(facts: Facts, files: Files) -> VersionRow:
    listed = [ManifestFile(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in files.items()]
    manifest = Manifest.of(
        name="tiny", version="1.0.0", files=listed, facts=facts.for_manifest(), license=None, created=1
    )
    return VersionRow(
        version="1.0.0",
        manifest=canonical_bytes(manifest),
        facts=facts.to_dict(),
        format=facts.format,
        architecture=facts.architecture,
        task=facts.task,
        parameters=facts.parameters,
        context_length=facts.context_length,
    )


def wanted_of(facts: Facts, files: Files, file: str | None = None) -> DesiredDeployment:
    """For the version's own model, or for the choice named by `file`."""
    model = file_selection.find(version_of(facts, files), file)
    assert model is not None
    listed = [DeploymentFile(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in files.items()]
    return DesiredDeployment(
        deployment_id="dep_1",
        manifest_digest="sha256:" + "a" * 64,
        served_name="acme/tiny",
        version="1.0.0",
        format=model.format,
        architecture=model.architecture,
        task=model.task,
        context_length=model.context_length,
        parameters=model.parameters,
        files=model.needed(listed),
        max_concurrent=4,
        root=model.root,
        weights=list(model.weights),
    )
