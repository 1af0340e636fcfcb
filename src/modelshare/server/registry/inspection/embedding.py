"""Checks the declarations of an embedding model, to warn its publisher at the push."""

from collections.abc import Mapping

from modelshare.embedder import ARCHITECTURES, Embedder, ModelFiles, UnreadableError, read_embedder
from modelshare.server.registry.inspection.facts import Task
from modelshare.server.registry.inspection.reader import RangeReader, head
from modelshare.server.registry.refused import ModelRejectedError, printable


def model_files(files: Mapping[str, RangeReader], root: str = "") -> ModelFiles:
    """The files of the model in `root`, for `modelshare.embedder`."""

    def read(path: str, limit: int) -> bytes:
        length = min(files[path].size, limit)
        return head(files[path], length) if length else b""

    return ModelFiles(files, read, root)


def embedder_of(files: Mapping[str, RangeReader], root: str = "") -> Embedder | None:
    """None if it is not a model of sentence-transformers. Raises ModelRejectedError if declared files are missing."""
    try:
        return read_embedder(model_files(files, root))
    except UnreadableError as error:
        raise ModelRejectedError(f"In {printable(root)}: {error}" if root else str(error)) from error


def embedder_warnings(embedder: Embedder | None, task: Task, architecture: str | None) -> tuple[str, ...]:
    """Warnings about what prevents agents from serving it, and what callers have to add themselves."""
    if task is not Task.EMBEDDING:
        return ()
    obstacle = embedder.obstacle if embedder else None
    if obstacle is None and architecture is not None and architecture not in ARCHITECTURES:
        obstacle = (
            f"its architecture is {architecture}, but embeddings are supported only for {', '.join(ARCHITECTURES)}."
        )
    warnings = [f"No default engine can serve this model: {obstacle}"] if obstacle else []
    if embedder and embedder.optional_prompts:
        names = ", ".join(embedder.optional_prompts)
        warnings.append(
            f"It defines prompts ({names}) that are not added to texts automatically; callers add them where needed."
        )
    return tuple(warnings)
