"""The networks: plain torch modules on (N, C, z, y, x), importable on a bare GPU machine."""
