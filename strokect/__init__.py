"""strokect: what the pipeline stages and the service share."""

__version__ = "0.1.0"
