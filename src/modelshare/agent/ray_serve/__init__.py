"""Deployments as applications of Ray Serve, on a Ray cluster that the operator runs (docs/ray.md)."""
