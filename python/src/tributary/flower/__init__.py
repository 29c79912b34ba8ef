"""Flower apps on Tributary.

>>> from tributary.flower import TributaryStrategy
>>> strategy = TributaryStrategy("http://127.0.0.1:7878", fraction_train=0.5)  # doctest: +SKIP

:class:`TributaryStrategy` takes the place of Flower's ``FedAvg``. With ``direct=True`` nodes send their updates to
Tributary themselves; their ClientApp then needs :func:`direct_mod`.
"""

from tributary import errors

try:
    import flwr.serverapp.strategy  # noqa: F401
except ImportError as error:
    raise errors.MissingPackage("Flower is not installed: `pip install flwr`") from error

from tributary.coordinator import JobExists, RoundLost
from tributary.flower.arrays import UnsupportedArray
from tributary.flower.direct import StaleModel, direct_mod
from tributary.flower.strategy import TributaryStrategy

__all__ = ["JobExists", "RoundLost", "StaleModel", "TributaryStrategy", "UnsupportedArray", "direct_mod"]
