"""Documents that say what a version is made of and where it comes from: an AI bill of materials, and Annex XII.

Both say what the platform knows, and what it does not know they do not say: the annex names each such gap. Built from
rows, no query of its own.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from modelshare import __version__
from modelshare.server.registry.licenses import LicenseFacts, describe
from modelshare.server.registry.service import manifest_of
from modelshare.server.registry.tables import ModelRow, VersionRow
from modelshare.wire.models import AnnexField, AnnexXii
from modelshare.wire.units import size

_SPACE: Final = uuid.UUID("6f1d4a52-31f3-4d8c-8f38-8b8f5f8f6a2c")
"""Of the serial numbers: the same version has the same one everywhere."""
_TASKS: Final[Mapping[str, str]] = {
    "chat": "Answering in conversations",
    "completion": "Continuing text",
    "embedding": "Representing text as vectors, for search and comparison",
}


def cyclonedx(model: ModelRow, version: VersionRow) -> dict[str, Any]:
    """CycloneDX 1.6 with the component `machine-learning-model`: https://cyclonedx.org/capabilities/mlbom/"""
    manifest = manifest_of(version)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SPACE, version.manifest_digest or str(version.id))}",
        "version": 1,
        "metadata": {
            "timestamp": _moment(version.created_at),
            "tools": {"components": [{"type": "application", "name": "modelshare", "version": __version__}]},
            "component": _component(model, version, manifest),
        },
        "components": [_file(file) for file in manifest["files"]],
    }


def annex_xii(model: ModelRow, version: VersionRow) -> AnnexXii:
    """The eleven items of Annex XII of Regulation (EU) 2024/1689, for whoever builds the model into a system."""
    facts, license_ = manifest_of(version).get("facts", {}), describe(_license(model, version))
    return AnnexXii(
        model=f"{model.project.slug}/{model.name}",
        version=version.version,
        manifest_digest=version.manifest_digest or "",
        fields=[_field(*item) for item in _items(model, version, facts, license_)],
    )


def _items(
    model: ModelRow, version: VersionRow, facts: Mapping[str, Any], license_: LicenseFacts | None
) -> Iterable[tuple[str, str, str | None, str]]:
    """Number, title, what is known, and what to write where nothing is or where that is not all."""
    task = _TASKS.get(version.task or "")
    text_only = "Text in" if task else None
    yield (
        "1(a)",
        "Tasks that the model is intended to perform, and systems that it can be integrated into",
        ". ".join(filter(None, (task, model.description))) or None,
        "State the intended tasks and systems in the model's description.",
    )
    restricted = license_ is not None and license_.restricts_use
    yield (
        "1(b)",
        "Acceptable use policies",
        f"See the use restrictions of the licence: {license_.url}" if restricted and license_ else None,
        "Describe or link an acceptable use policy in the model card.",
    )
    yield (
        "1(c)",
        "Date of release and methods of distribution",
        f"Version {version.version} was published {_moment(version.created_at)[:10]}. Distributed through this "
        "platform's catalog; weights go to agents under grants only.",
        "",
    )
    yield (
        "1(d)",
        "Interaction with hardware or software that is not part of the model",
        "Served by an inference engine behind an OpenAI-compatible API; by itself it calls no tools or services.",
        "",
    )
    yield (
        "1(e)",
        "Versions of relevant software",
        _joined([_named("Library", facts.get("library_name")), _named("Format", version.format)]),
        "State the versions of the software that the model was made and tested with in the model card.",
    )
    parameters = f"{version.parameters:,} parameters" if version.parameters else None
    yield (
        "1(f)",
        "Architecture and number of parameters",
        _joined([version.architecture, parameters, _named("Quantization", version.quantization)]),
        "State architecture and number of parameters in the model card.",
    )
    vectors = "vectors of numbers out" if version.task == "embedding" else "text out"
    modality = f"{text_only}, {vectors}" if text_only else None
    yield (
        "1(g)",
        "Modality and format of inputs and outputs",
        _joined([modality, _named("Languages", ", ".join(facts.get("languages", ())))]),
        "State modality and format in the model card.",
    )
    yield (
        "1(h)",
        "Licence",
        _joined([license_.name, license_.url]) if license_ else None,
        "State the licence, as an SPDX identifier where there is one.",
    )
    yield (
        "2(a)",
        "Technical means required to integrate the model",
        _joined([f"{size(version.size_bytes)} of files" if version.size_bytes else None, model.card and "model card"]),
        "Give instructions for use in the model card.",
    )
    context = f"at most {version.context_length:,} tokens together" if version.context_length else None
    yield (
        "2(b)",
        "Modality, format and maximum size of inputs and outputs",
        _joined([modality, context]) if context else None,
        "State the maximum size of inputs and outputs in the model card.",
    )
    bases = _named("Made from", ", ".join(facts.get("base_model", ())))
    datasets = _named("Data sets", ", ".join(facts.get("datasets", ())))
    yield (
        "2(c)",
        "Data used for training, testing and validation, with provenance and curation",
        _joined([datasets, bases]),
        "Name the data sets (`datasets` of the card), and describe their provenance and curation in the model card.",
    )


def _field(number: str, title: str, known: str | None, gap: str) -> AnnexField:
    return AnnexField(number=number, title=title, value=known, gap=None if known else gap)


def _component(model: ModelRow, version: VersionRow, manifest: Mapping[str, Any]) -> dict[str, Any]:
    facts = manifest.get("facts", {})
    license_ = describe(_license(model, version))
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{version.manifest_digest}",
        "group": model.project.slug,
        "name": model.name,
        "version": version.version,
        "modelCard": {"modelParameters": _parameters(version, facts)},
        "properties": _properties(version, facts),
    }
    if model.description:
        component["description"] = model.description
    if license_ is not None:
        component["licenses"] = [_license_choice(license_)]
    if bases := facts.get("base_model"):
        component["pedigree"] = {"ancestors": [{"type": "machine-learning-model", "name": base} for base in bases]}
    return component


def _parameters(version: VersionRow, facts: Mapping[str, Any]) -> dict[str, Any]:
    texts = {
        "task": facts.get("pipeline_tag") or version.task,
        "architectureFamily": version.family,
        "modelArchitecture": version.architecture,
    }
    found: dict[str, Any] = {name: value for name, value in texts.items() if value}
    if datasets := facts.get("datasets"):
        found["datasets"] = [{"type": "dataset", "name": name} for name in datasets]
    if version.task in _TASKS:
        output = "vector" if version.task == "embedding" else "text"
        found |= {"inputs": [{"format": "text"}], "outputs": [{"format": output}]}
    return found


def _properties(version: VersionRow, facts: Mapping[str, Any]) -> list[dict[str, str]]:
    known = {
        "manifest_digest": version.manifest_digest,
        "parameters": version.parameters,
        "context_length": version.context_length,
        "quantization": version.quantization,
        "format": version.format,
        "languages": ", ".join(facts.get("languages", ())),
        "source": _source(facts.get("source")),
        "signature": version.signature_state,
        "signer": version.signer,
    }
    return [{"name": f"modelshare:{name}", "value": str(value)} for name, value in known.items() if value]


def _source(source: Mapping[str, str] | None) -> str | None:
    """Where the files were imported from."""
    if source is None:
        return None
    endpoint = f" at {source['endpoint']}" if "endpoint" in source else ""
    return f"{source['ref']}{endpoint}, {source['commit']}"


def _file(file: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{file['path']}",
        "name": file["path"],
        "hashes": [{"alg": "SHA-256", "content": file["sha256"]}],
        "properties": [{"name": "modelshare:size", "value": str(file["size"])}],
    }


def _license_choice(license_: LicenseFacts) -> dict[str, Any]:
    if license_.spdx is not None and " " in license_.spdx:
        return {"expression": license_.spdx}
    if license_.spdx is not None:
        return {"license": {"id": license_.spdx}}
    return {"license": {"name": license_.name} | ({"url": license_.url} if license_.url else {})}


def _license(model: ModelRow, version: VersionRow) -> str | None:
    """Of the model as its owner states it now; for an earlier version what its own manifest says."""
    return model.license if version.is_latest else manifest_of(version).get("license")


def _named(name: str, value: str | None) -> str | None:
    return f"{name}: {value}" if value else None


def _joined(parts: Sequence[str | None]) -> str | None:
    return "; ".join(filter(None, parts)) or None


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
