"""Nearest neighbours among embedding vectors: one interface, three backends, and the whitening that comes before."""
