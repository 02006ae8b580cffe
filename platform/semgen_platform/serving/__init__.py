"""Serving: the ASGI application, its access rule and a small client. No Ray; semgen_pipelines.serve spreads it."""
