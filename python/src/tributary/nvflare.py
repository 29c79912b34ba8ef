"""NVFLARE's FedAvg, aggregated by Tributary.

>>> from tributary.nvflare import TributaryAggregator
>>> aggregator = TributaryAggregator("http://127.0.0.1:7878")  # doctest: +SKIP
>>> recipe = FedAvgRecipe(aggregator=aggregator, ...)  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

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
    from nvflare.app_common.abstract.model import ModelLearnableKey
    from nvflare.app_common.aggregators.model_aggregator import ModelAggregator
    from nvflare.app_common.aggregators.weighted_aggregation_helper import (
        WeightedAggregationHelper,
        filter_aggregatable_metrics,
    )
    from nvflare.app_common.app_constant import AppConstants
except ImportError as error:
    raise errors.MissingPackage("NVFLARE is not installed: `pip install nvflare`") from error

Shapes = dict[str, tuple[int, ...]]

#: What a client's name may not hold.
_FORBIDDEN = re.compile(r"[^A-Za-z0-9._-]")


class TributaryAggregator(ModelAggregator):  # type: ignore[misc]
    """An aggregator for ``FedAvg(aggregator=...)`` and ``FedAvgRecipe(aggregator=...)``.

    Results go to Tributary one by one as they arrive. The mean is weighted by the number of steps in a result's meta
    data, as NVFLARE's own is, whether results are whole models or differences. Integers and metrics are averaged here.

    The job's layout is that of NVFLARE's global model, or of most results of the first round; those are held until the
    round ends if the global model is not known or none has its layout. A result that does not fit is logged as an error
    and left out. Parameters come back in the types that they had.

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
        #: The layout that results must have; decided once, in the first round.
        self._shapes: Shapes | None = None
        self.reset_stats()

    def reset_stats(self) -> None:
        """Begins a round."""
        self._seen = self._taken = 0
        self._held: list[FLModel] = []
        self._kinds: dict[str, _Kind] = {}
        self._params_type: Any = None
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
        if self._shapes is None and (shapes := _shapes(model.params)) == self._global_shapes():
            self._begin(shapes)
        if self._shapes is None:
            # A job's layout is fixed: until the round ends, nobody knows that of most results.
            self._held.append(model)
        else:
            self._take(model)

    def _take(self, model: FLModel) -> None:
        """Takes a result into the round."""
        self._seen += 1
        client, weight = _client(model, self._seen), _weight(model)
        if not model.params or bool(self._shapes) != bool(_shapes(model.params)):
            here = "floating-point numbers" if self._shapes else "none but whole numbers"
            self.error(f"the result of {client} does not count: it has other parameters than the model, with {here}")
            return
        tensors = {name: value for name, value in model.params.items() if self._shapes and _is_float(value)}
        if self._coordinator is not None:
            try:
                lost = self._coordinator.push(client, tensors, weight)
            except errors.UpdateRefused as error:
                self.error(f"the result of {client} does not count: {type(error).__name__}: {error}")
                return
            if lost:
                self.error(f"the Tributary server was restarted: {len(lost)} results of this round are lost")
            self._taken -= len(lost)
        self._taken += 1
        self._kinds = {name: _Kind.of(value, self._kinds.get(name)) for name, value in model.params.items()}
        self._params_type = model.params_type
        counted = {name: value for name, value in model.params.items() if name not in tensors}
        self._counted.add(counted, weight, client, model.current_round)
        self._add_metrics(model, weight, client)

    def _begin(self, shapes: Shapes) -> None:
        """Creates the job, unless whole numbers are all that there is; those are averaged here."""
        if shapes:
            name = self.job or f"nvflare-{uuid.uuid4().hex[:12]}"
            coordinator = Coordinator(
                self.server,
                name,
                function=self.function,
                module=self.module,
                config=self.config,
                patience=self.patience,
            )
            # Clients train from the model that NVFLARE sends, so the job's first one is never used.
            coordinator.create({name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()})
            self._coordinator = coordinator
            self.info(f"results go to job {name} at {self.server}")
        self._shapes = shapes

    def _global_shapes(self) -> Shapes | None:
        """The layout of the model that NVFLARE has sent to the clients, if it lets components see that."""
        learnable = self.fl_ctx.get_prop(AppConstants.GLOBAL_MODEL) if self.fl_ctx else None
        weights = learnable.get(ModelLearnableKey.WEIGHTS) if isinstance(learnable, Mapping) else None
        return _shapes(weights) if isinstance(weights, Mapping) and weights else None

    def _take_held(self) -> None:
        """Decides for the layout that most results have, and takes what was held until then."""
        layouts = [_shapes(model.params) for model in self._held if model.params]
        if layouts and self._shapes is None:
            self._begin(max(layouts, key=layouts.count))
        held, self._held = self._held, []
        for model in held:
            self._take(model)

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
        self._take_held()
        if not self._kinds:
            raise RoundLost("no result of this round counts; the log says why")
        model = self._coordinator.close(self._taken).model if self._coordinator is not None else {}
        counted = self._counted.get_result()
        params: dict[str, Any] = {
            name: counted[name] if name in counted else kind.array(model[name]) for name, kind in self._kinds.items()
        }
        metrics = self._metrics.get_result() if self._metrics is not None else None
        return FLModel(params=params, params_type=self._params_type, metrics=metrics or None)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Completes the job at the end of the run."""
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.END_RUN and self._coordinator is not None:
            self._coordinator.end()


class _Kind(NamedTuple):
    """What an averaged parameter shall be again: numpy's or torch's, and of which type."""

    torch: bool
    dtype: Any

    @classmethod
    def of(cls, value: Any, other: _Kind | None) -> _Kind:
        """That of a parameter which is of this kind in one result and of the other in another: the wider of both."""
        torch, dtype = hasattr(value, "detach"), getattr(value, "dtype", None)
        if other is None or other.torch != torch or other.dtype == dtype:
            return other or cls(torch, dtype)
        module: Any = sys.modules["torch"] if torch else np
        return cls(torch, module.promote_types(other.dtype, dtype))

    def array(self, values: npt.NDArray[Any]) -> Any:
        """The values as that."""
        if self.torch:
            return sys.modules["torch"].from_numpy(values).to(self.dtype)
        return values.astype(self.dtype, copy=False)


def _shapes(params: Mapping[str, Any] | None) -> Shapes:
    """The parameters that Tributary aggregates; none if they have no elements."""
    shapes = {name: tuple(value.shape) for name, value in (params or {}).items() if _is_float(value)}
    return shapes if any(map(math.prod, shapes.values())) else {}


def _is_float(value: Any) -> bool:
    """Whether a parameter is aggregated by Tributary: numpy's and torch's dtypes say so in one word."""
    return "float" in str(getattr(value, "dtype", ""))


def _client(model: FLModel, number: int) -> str:
    """A client's name, in characters that Tributary takes; two names stay two."""
    name = (model.meta or {}).get("client_name")
    if not isinstance(name, str) or not name:
        return f"client-{number}"
    short = _FORBIDDEN.sub("-", name)[:111]
    if short == name and name.strip("."):
        return name
    return f"{short}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:16]}"


def _weight(model: FLModel) -> float:
    """A result's number of steps, whatever holds it; 1 where NVFLARE too takes 1, because there is none."""
    steps = (model.meta or {}).get(FLMetaKey.NUM_STEPS_CURRENT_ROUND)
    if steps is None or isinstance(steps, bool):
        return 1.0
    try:
        weight = float(steps)
    except (TypeError, ValueError, OverflowError):
        return 1.0
    return weight if math.isfinite(weight) and weight > 0 else 1.0
