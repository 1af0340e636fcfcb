"""Inference engines: other people's programs, started on loopback, supervised, and asked over OpenAI's routes."""
