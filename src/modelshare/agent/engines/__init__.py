"""Inference engines: third-party programs, started on loopback, supervised, and called with OpenAI's API."""
