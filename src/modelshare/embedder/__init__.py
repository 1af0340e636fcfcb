"""Embedding models as sentence-transformers saves them: what their files declare about how a text becomes a vector.

Server and agent read it with the same code, so that they cannot disagree. Pure: files come in as bytes.
"""

from modelshare.embedder.declared import ARCHITECTURES, Embedder, read_embedder, transformer_folder
from modelshare.embedder.files import ModelFiles, UnreadableError

__all__ = ["ARCHITECTURES", "Embedder", "ModelFiles", "UnreadableError", "read_embedder", "transformer_folder"]
