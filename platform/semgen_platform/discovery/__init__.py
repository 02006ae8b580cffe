"""Discovery of anatomical patterns: where the same place of the body lies in many scans.

Two recipes, `aligned` (ours, METHOD.md 5b) and `published` (5.1), write the same rows. Pure functions of arrays; how
work spreads over machines, and every read and write of the lake, is the business of semgen_pipelines.
"""
