"""CT archives in, an anatomical backbone out. Plain Python, NumPy and torch; no Ray, no command line."""

__version__ = "0.1.0"
