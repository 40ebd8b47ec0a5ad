"""Pictures → features: the backbone, the engine that runs it, and the cache."""
