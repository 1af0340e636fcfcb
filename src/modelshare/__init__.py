"""Publish AI models into a public catalog without surrendering the weights."""

__version__ = "0.1.0"
