"""CT phantoms with their truth: a canonical body, patients made from it, a scanner, and cohorts on disk."""
