"""Container images: the Containerfile that describes them, a build without a registry, and what is in them (SBOM)."""
