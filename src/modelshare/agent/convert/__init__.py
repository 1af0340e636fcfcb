"""From safetensors to GGUF, for the architectures whose every number is known to come out right."""
