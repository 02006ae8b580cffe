"""The command line: a thin shell over semgen_pipelines and semgen_platform."""
