"""Flower's FedAvg, aggregated by Tributary."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from logging import INFO, WARNING
from os import PathLike
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, Result

from tributary import errors
from tributary.coordinator import Coordinator
from tributary.flower.grid import StreamingGrid
from tributary.flower.intake import Intake
from tributary.flower.run import Direct, Relayed

if TYPE_CHECKING:
    from flwr.serverapp import Grid

Aggregate = Callable[[list[RecordDict], str], MetricRecord]

#: Flower's own log.
log = logging.getLogger("flwr").log


class TributaryStrategy(FedAvg):
    """FedAvg whose arithmetic, and whose memory, are Tributary's.

    In place of ``FedAvg(...)``, with the same options::

        strategy = TributaryStrategy("http://127.0.0.1:7878", fraction_train=0.5)

    Each run is a job of its own. Replies go to it one by one as they arrive, and their arrays are let go of, so that
    the server app holds one update at a time however many nodes are sampled.

    With ``direct`` nodes fetch models from Tributary and push their updates there; Flower carries metrics. The
    ClientApp needs :func:`~tributary.flower.direct_mod`, and nothing else.

    Args:
        server: the address of Tributary, as ``http://host:port``; or several, see :class:`tributary.Client`.
        job: the name of the job to create; by default ``flower-`` and the run's id.
        function: the function that aggregates; must be there, unless ``module`` is given.
        module: a WebAssembly module, from which the function is created.
        config: the function's configuration.
        direct: let nodes and Tributary talk to each other. The address, or several, as nodes reach it, or ``True`` if
            that is ``server``.
        patience: seconds for which an absent server is waited for.
        fraction_train: as of :class:`flwr.serverapp.strategy.FedAvg`, and so are all that follow.
        fraction_evaluate: fraction of nodes that evaluate.
        min_train_nodes: at least so many nodes train.
        min_evaluate_nodes: at least so many nodes evaluate.
        min_available_nodes: so many nodes are waited for.
        weighted_by_key: the metric that is an update's weight.
        arrayrecord_key: the key of the model in messages.
        configrecord_key: the key of the configuration in messages.
        train_metrics_aggr_fn: aggregates the metrics of training; sees replies without floating-point arrays.
        evaluate_metrics_aggr_fn: aggregates the metrics of evaluation.
    """

    def __init__(
        self,
        server: str | Sequence[str] = "http://127.0.0.1:7878",
        *,
        job: str | None = None,
        function: str = "fedavg",
        module: str | PathLike[str] | None = None,
        config: Mapping[str, Any] | None = None,
        direct: bool | str | Sequence[str] = False,
        patience: float = 60.0,
        fraction_train: float = 1.0,
        fraction_evaluate: float = 1.0,
        min_train_nodes: int = 2,
        min_evaluate_nodes: int = 2,
        min_available_nodes: int = 2,
        weighted_by_key: str = "num-examples",
        arrayrecord_key: str = "arrays",
        configrecord_key: str = "config",
        train_metrics_aggr_fn: Aggregate | None = None,
        evaluate_metrics_aggr_fn: Aggregate | None = None,
    ) -> None:
        super().__init__(
            fraction_train,
            fraction_evaluate,
            min_train_nodes,
            min_evaluate_nodes,
            min_available_nodes,
            weighted_by_key,
            arrayrecord_key,
            configrecord_key,
            train_metrics_aggr_fn,
            evaluate_metrics_aggr_fn,
        )
        self.server = _plain(server)
        self.job = job
        self.direct: str | list[str] = self.server if direct is True else _plain(direct or "")
        self.patience = patience
        self._function: dict[str, Any] = {"function": function, "module": module, "config": config}
        self._run: Relayed | None = None
        self._runs = 0

    def summary(self) -> None:
        """Logs the configuration."""
        super().summary()
        log(INFO, "\t└──> Tributary:")
        log(INFO, "\t\t├── Server: %s", self.server)
        log(INFO, "\t\t├── Job: %s", self._run.coordinator.job if self._run else self.job)
        log(
            INFO,
            "\t\t└── Arrays: %s",
            f"between nodes and {self.direct}" if self.direct else "through Flower",
        )

    def start(self, grid: Grid, initial_arrays: ArrayRecord, *args: Any, **kwargs: Any) -> Result:
        """Runs all rounds; arguments and result are those of :meth:`flwr.serverapp.strategy.Strategy.start`.

        Raises:
            UnsupportedArray: no job can hold such a model.
            JobExists: there is a job of that name.
            UnknownFunction: the server does not have the function.
            ServerUnreachable: the server is not there, also not within the patience.
            InconsistentMessageReplies: as of FedAvg, when replies are without a weight.
        """
        run = self._run = self._begin(grid, initial_arrays)
        try:
            return super().start(StreamingGrid(grid, run.reply_bytes), initial_arrays, *args, **kwargs)
        finally:
            self._run = None
            _end(run)

    def _begin(self, grid: Grid, arrays: ArrayRecord) -> Relayed:
        """Creates the run's job."""
        self._runs += 1
        again = f"-{self._runs}" if self._runs > 1 else ""
        name = self.job or f"flower-{grid.run.run_id}{again}"
        coordinator = Coordinator(self.server, name, patience=self.patience, **self._function)
        if self.direct:
            return Direct(coordinator, arrays, self.weighted_by_key, self.direct, self.arrayrecord_key)
        return Relayed(coordinator, arrays, self.weighted_by_key)

    def _running(self, grid: Grid, arrays: ArrayRecord) -> Relayed:
        """The run; begun here if another strategy is around this one and has a loop of its own."""
        if self._run is None:
            self._run = self._begin(grid, arrays)
        return self._run

    # === training ===

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Samples nodes, and tells Tributary how many updates will come."""
        run = self._running(grid, arrays)
        messages = list(super().configure_train(server_round, run.outgoing(arrays), config, grid))
        if messages:
            run.coordinator.expect(len(messages))
        run.address(messages, train=True)
        return messages

    def aggregate_train(
        self,
        server_round: int,  # noqa: ARG002
        replies: Iterable[Message],
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Hands replies to Tributary as they come, closes the round, and gives its model."""
        if self._run is None:
            raise errors.InvalidArgument("aggregate_train comes after configure_train")
        intake = Intake(self._run, self.weighted_by_key)
        for reply in replies:
            intake.take(reply)
            # Before the next one comes: it may be large.
            del reply
        contents = intake.finish()
        arrays = self._run.close(contents)
        if not contents:
            return arrays, None
        return arrays, self.train_metrics_aggr_fn(contents, self.weighted_by_key)

    # === evaluation ===

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Samples nodes."""
        run = self._running(grid, arrays)
        messages = list(super().configure_evaluate(server_round, run.outgoing(arrays), config, grid))
        run.address(messages, train=False)
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Aggregates metrics, as FedAvg does."""
        return super().aggregate_evaluate(server_round, list(replies))


def _plain(addresses: str | Sequence[str]) -> str | list[str]:
    """One or several, as Flower's records can carry them."""
    return addresses if isinstance(addresses, str) else list(addresses)


def _end(run: Relayed) -> None:
    try:
        run.coordinator.end()
    except errors.TributaryError as error:
        log(WARNING, "job %s is not marked as completed: %s", run.coordinator.job, error)
