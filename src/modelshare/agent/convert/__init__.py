"""Converts safetensors to GGUF, for architectures for which the result is known to be exact."""
