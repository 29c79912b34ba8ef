"""Client of Tributary, an aggregation server for federated learning.

>>> from tributary import Client
>>> client = Client("http://127.0.0.1:7878", job="digits", name="client-07")  # doctest: +SKIP
>>> model = client.pull()  # doctest: +SKIP
>>> client.push(train(model), weight=132)  # doctest: +SKIP

:class:`Client` and :class:`AsyncClient` are for those who train, :class:`Server` is for operators, :class:`Job`,
:class:`Function` and :class:`Tenant` are manifests. All errors are in :mod:`tributary.errors`.
"""

from tributary import errors
from tributary.aio import AsyncClient
from tributary.client import Client
from tributary.events import Event
from tributary.manifest import Function, Job, Tenant
from tributary.model import Model
from tributary.server import Server
from tributary.status import (
    Accepted,
    Applied,
    Change,
    FunctionStatus,
    JobStatus,
    NodeStatus,
    RoundStatus,
    TenantStatus,
)

__version__ = "0.1.0"

__all__ = [
    "Accepted",
    "Applied",
    "AsyncClient",
    "Change",
    "Client",
    "Event",
    "Function",
    "FunctionStatus",
    "Job",
    "JobStatus",
    "Model",
    "NodeStatus",
    "RoundStatus",
    "Server",
    "Tenant",
    "TenantStatus",
    "__version__",
    "errors",
]
