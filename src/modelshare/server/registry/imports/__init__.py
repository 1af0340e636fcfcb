"""Models that are copied from other places: Hugging Face Hubs and OCI registries."""
