"""Backbones: published networks with the contract of their input, loaded and checked from plain torch."""
