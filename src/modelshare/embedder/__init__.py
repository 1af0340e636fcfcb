"""Embedding models as sentence-transformers saves them: what their files declare about how a text becomes a vector.

Server and agent read it with the same code, so that they cannot disagree. Pure: files come in as bytes.
"""

from modelshare.embedder.declared import ARCHITECTURES, Embedder, read_embedder
from modelshare.embedder.files import ModelFiles, UnreadableError
from modelshare.embedder.layers import Layer
from modelshare.embedder.modules import MODULES, Module, read_modules

__all__ = [
    "ARCHITECTURES",
    "MODULES",
    "Embedder",
    "Layer",
    "ModelFiles",
    "Module",
    "UnreadableError",
    "read_embedder",
    "read_modules",
]
