"""The platform's own package and its installer, for those who use the platform."""
