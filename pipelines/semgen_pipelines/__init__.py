"""How the work of semgen_platform spreads over machines with Ray; one module a stage."""
