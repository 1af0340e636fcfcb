"""A project's models in the dashboard: the list, uploads, a model's page, and sharing."""
