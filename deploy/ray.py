"""Ponder on Ray Serve, from a checkout: `serve run deploy.ray:app config=ponder.toml`.

Where the wheel is installed, it is `serve run ponder.server.ray:app config=ponder.toml`. See docs/ray.md.
"""

from ponder.server.ray import app

__all__ = ["app"]
