"""NVFLARE's FedAvg, aggregated by Tributary.

>>> from tributary.nvflare import TributaryAggregator
>>> aggregator = TributaryAggregator("http://127.0.0.1:7878")  # doctest: +SKIP
>>> recipe = FedAvgRecipe(aggregator=aggregator, ...)  # doctest: +SKIP
"""

from __future__ import annotations

import math
import re
import sys
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tributary import errors
from tributary.coordinator import CLIENTS, Coordinator, RoundLost

if TYPE_CHECKING:
    from nvflare.apis.fl_context import FLContext

try:
    from nvflare.apis.event_type import EventType
    from nvflare.apis.fl_constant import FLMetaKey
    from nvflare.app_common.abstract.fl_model import FLModel
    from nvflare.app_common.aggregators.model_aggregator import ModelAggregator
    from nvflare.app_common.aggregators.weighted_aggregation_helper import (
        WeightedAggregationHelper,
        filter_aggregatable_metrics,
    )
except ImportError as error:
    raise errors.MissingPackage("NVFLARE is not installed: `pip install nvflare`") from error

#: What a client's name may not hold.
_FORBIDDEN = re.compile(r"[^A-Za-z0-9._-]")


class TributaryAggregator(ModelAggregator):  # type: ignore[misc]
    """An aggregator for ``FedAvg(aggregator=...)`` and ``FedAvgRecipe(aggregator=...)``.

    Results go to Tributary one by one as they arrive. The mean is weighted by the number of steps in a result's meta
    data, as NVFLARE's own is, whether results are whole models or differences. Integers and metrics are averaged here.

    A result that does not fit is logged as an error and left out.

    Args:
        server: the address of Tributary, as ``http://host:port``; or a list of several, see :class:`tributary.Client`.
        job: the name of the job to create; by default ``nvflare-`` and something unique.
        function: the function that aggregates; must be there, unless ``module`` is given.
        module: a WebAssembly module, from which the function is created.
        config: the function's configuration.
        patience: seconds for which an absent server is waited for.
    """

    def __init__(
        self,
        server: str | list[str] = "http://127.0.0.1:7878",
        job: str | None = None,
        function: str = "fedavg",
        module: str | None = None,
        config: dict[str, Any] | None = None,
        patience: float = 60.0,
    ) -> None:
        super().__init__()
        # NVFLARE writes a component's arguments into the job's configuration: attributes have their names.
        self.server, self.job = server, job
        self.function, self.module, self.config = function, module, config
        self.patience = patience
        self._coordinator: Coordinator | None = None
        self.reset_stats()

    def reset_stats(self) -> None:
        """Begins a round."""
        self._taken = 0
        self._names: list[str] = []
        self._params_type: Any = None
        self._torch = False
        self._counted = WeightedAggregationHelper()
        self._metrics: WeightedAggregationHelper | None = WeightedAggregationHelper()
        if self._coordinator is not None:
            self._coordinator.expect(CLIENTS)

    def accept_model(self, model: FLModel) -> None:
        """Hands a client's result to Tributary.

        Raises:
            ServerUnreachable: the server is not there, also not within the patience.
            UnknownFunction, JobExists, InvalidManifest: the job cannot be created.
        """
        client, weight = _client(model, self._taken), _weight(model)
        tensors = {name: value for name, value in model.params.items() if _is_float(value)}
        coordinator = self._coordinator or self._begin(tensors)
        try:
            lost = coordinator.push(client, tensors, weight)
        except errors.UpdateRefused as error:
            self.error(f"the result of {client} does not count: {type(error).__name__}: {error}")
            return
        if lost:
            self.error(f"the Tributary server was restarted: {len(lost)} results of this round are lost")
        self._taken += 1 - len(lost)
        self._names = self._names or list(model.params)
        self._params_type = model.params_type
        self._torch = any(hasattr(value, "detach") for value in tensors.values())
        counted = {name: value for name, value in model.params.items() if name not in tensors}
        self._counted.add(counted, weight, client, model.current_round)
        self._add_metrics(model, weight, client)

    def _begin(self, tensors: Mapping[str, Any]) -> Coordinator:
        """Creates the job, with the tensors that the first result has."""
        name = self.job or f"nvflare-{uuid.uuid4().hex[:12]}"
        coordinator = Coordinator(
            self.server,
            name,
            function=self.function,
            module=self.module,
            config=self.config,
            patience=self.patience,
        )
        coordinator.create({name: np.asarray(value) for name, value in tensors.items()})
        self._coordinator = coordinator
        self.info(f"results go to job {name} at {self.server}")
        return coordinator

    def _add_metrics(self, model: FLModel, weight: float, client: str) -> None:
        """As NVFLARE has it: a round has metrics if every result has."""
        if model.metrics is None:
            self._metrics = None
        if self._metrics is not None and (metrics := filter_aggregatable_metrics(model.metrics)):
            self._metrics.add(metrics, weight, client, model.current_round)

    def aggregate_model(self) -> FLModel:
        """Closes the round; its model.

        Raises:
            RoundLost: there is no result, or none any more.
        """
        if self._coordinator is None or not self._names:
            raise RoundLost("no result of this round counts; the log says why")
        outcome = self._coordinator.close(self._taken)
        counted = self._counted.get_result()
        params: dict[str, Any] = {
            name: counted[name] if name in counted else self._array(outcome.model[name]) for name in self._names
        }
        metrics = self._metrics.get_result() if self._metrics is not None else None
        return FLModel(params=params, params_type=self._params_type, metrics=metrics or None)

    def _array(self, values: npt.NDArray[Any]) -> Any:
        """In the words of the results: numpy's or torch's."""
        return sys.modules["torch"].from_numpy(values) if self._torch else values

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Completes the job at the end of the run."""
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.END_RUN and self._coordinator is not None:
            self._coordinator.end()


def _is_float(value: Any) -> bool:
    """Whether a parameter is aggregated by Tributary: numpy's and torch's dtypes say so in one word."""
    return "float" in str(getattr(value, "dtype", ""))


def _client(model: FLModel, index: int) -> str:
    """A client's name, in characters that Tributary takes."""
    name = (model.meta or {}).get("client_name")
    return _FORBIDDEN.sub("-", name)[:128] if isinstance(name, str) and name else f"client-{index}"


def _weight(model: FLModel) -> float:
    """A result's number of steps; 1 where NVFLARE too takes 1, because there is none that can be."""
    steps = (model.meta or {}).get(FLMetaKey.NUM_STEPS_CURRENT_ROUND)
    if isinstance(steps, bool) or not isinstance(steps, (int, float)):
        return 1.0
    return float(steps) if math.isfinite(steps) and steps > 0 else 1.0
