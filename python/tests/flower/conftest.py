"""Flower's packages warn when they are imported; that is not what these tests are about."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tributary.flower  # noqa: F401
