"""Evaluation: what a backbone is worth, measured against baselines on patients that nothing before has seen."""
