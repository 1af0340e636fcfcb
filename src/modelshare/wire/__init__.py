"""The wire format: request and response types, error codes, link frames. Imports nothing else of modelshare.

Times are Unix seconds (integers), sizes are bytes, digests are lowercase SHA-256 hex unless prefixed `sha256:`.
"""
