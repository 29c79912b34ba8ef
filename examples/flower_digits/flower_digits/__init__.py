"""Handwritten digits with Flower, aggregated by Tributary."""
