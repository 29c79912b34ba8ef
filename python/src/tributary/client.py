"""The client for programs that train: pull, train, push."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from tributary._core.address import shown
from tributary._core.blocking import Blocking, run
from tributary._core.feed import Feed
from tributary._core.participant import Options, Participant, Update
from tributary.events import Event
from tributary.model import Model
from tributary.status import Accepted

if TYPE_CHECKING:
    from typing_extensions import Self


class Client:
    """A client of one job.

    Connections are kept and used again. A client may be used from several threads at once: each call that finds no
    idle connection opens one. After a fork the child opens connections of its own. A pickled client has the same
    options and knows the same model's version and layout; it opens connections of its own.

    Args:
        address: the server, as ``http://host:port``; or several servers of one installation. The first that answers is
            used. When it cannot be reached, the next one is, in turn, within the same patience. Redirects are followed:
            any node is good to begin with, and a client's home is remembered until it fails or redirects.
        job: the job's name.
        name: this client's name: 1 to 128 characters of ``A-Za-z0-9._-``, not ``.`` or ``..``. Needed to push, here or
            there.
        timeout: seconds without a byte after which a connection is given up.
        patience: seconds after a first failure for which the client goes on trying: when the server is not there, a
            connection breaks, all slots are in use, or the round is closing. 0 for one attempt only.
        progress: show a bar for each transfer; needs tqdm (``pip install tqdm``).
        local: write updates straight into the server's shared memory. ``"auto"``: if client and server share this
            machine and user, else by HTTP. ``True``: or fail and say why. ``False``: never.
        keep_until_pulled: a node that dies takes its updates along. Keep this client's own update, that is, references
            to its arrays or its file's path, until a newer model is pulled; while :meth:`pull` waits for that model,
            push it again if no node has it. See :meth:`pull`.

    Raises:
        InvalidAddress, InvalidName, InvalidArgument, MissingPackage: nothing has been sent yet.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        job: str,
        name: str | None = None,
        *,
        timeout: float = 30.0,
        patience: float = 60.0,
        progress: bool = False,
        local: bool | Literal["auto"] = "auto",
        keep_until_pulled: bool = True,
    ) -> None:
        options = Options(timeout, patience, progress, local, keep_until_pulled)
        self._core = Participant(address, job, name, options, Blocking())

    # === what it is ===

    @property
    def address(self) -> str:
        """The address of the server that is asked first: this client's home, once it is known."""
        return self._core.address

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that were given."""
        return self._core.addresses

    @property
    def job(self) -> str:
        """The job's name."""
        return self._core.job

    @property
    def name(self) -> str | None:
        """This client's name."""
        return self._core.name

    @property
    def version(self) -> int | None:
        """The version of the last model that was pulled; the round of a push that names none."""
        return self._core.version

    # === what it does ===

    @overload
    def pull(self, *, after: None = None, wait: float = 0.0) -> Model: ...

    @overload
    def pull(self, *, after: int, wait: float = 0.0) -> Model | None: ...

    def pull(self, *, after: int | None = None, wait: float = 0.0) -> Model | None:
        """Fetches the newest model.

        With ``after``, an update that this client has pushed into that round under its own name is looked after
        (``keep_until_pulled``). Every few seconds, and at once when its node cannot be reached, the servers are asked
        whether one of them has it. If none has, it is pushed again, from the same arrays or file, as they are then: so
        leave them alone until there is a newer model. Servers know an update that they have, so it is counted once.
        What is not promised: a round that is closed without the update stays without it, and nothing happens between
        two calls. If the update cannot be sent again, a line of the logger ``tributary`` says why.

        Args:
            after: only a version newer than this one.
            wait: seconds to wait for one; with ``after`` only.

        Returns:
            The model, or ``None`` if there is none newer than ``after``. Never ``None`` without ``after``.

        Raises:
            UnknownJob, JobFailed: see :mod:`tributary.errors`.
            ServerUnreachable: no answer within the patience.
        """
        return run(self._core.pull(after, wait))

    def push(
        self,
        update: Update,
        *,
        weight: float | None = None,
        round: int | None = None,
        name: str | None = None,
        encoding: Literal["f32", "f16", "bf16"] | None = None,
        cast: bool = False,
    ) -> Accepted:
        """Sends an update.

        Arrays are not copied: they go to the socket, or into shared memory, from where they are. Only an array that is
        not contiguous, not little-endian, on another device or of another type is converted, one tensor at a time.

        An answer that got lost is no error: the same bytes are sent again, and count once.

        Args:
            update: a mapping of names to numpy arrays or torch tensors, a :class:`Model`, or the path of a safetensors
                file, which is sent as it is. It must have the names and shapes of the job's model.
            weight: finite and greater than 0, most often the client's number of examples. By default a file's own
                ``num_examples``, else 1.
            round: the round; by default the version of the last model that this client has pulled.
            name: the client's name for this one push.
            encoding: send every tensor in this type. By default the arrays' own: all f32, all f16 or all bf16.
            cast: convert other types, such as float64, to float32 instead of refusing them.

        Raises:
            LayoutMismatch, BadWeight, NoRound, InvalidName: found before anything is sent.
            UpdateRefused: the server's refusals, each a class of its own: :class:`~tributary.errors.WrongRound`,
                :class:`~tributary.errors.NonFinite` and so on.
            JobCompleted, UnknownJob, JobFailed: there is no round to send to.
            ServerUnreachable: no answer within the patience.
        """
        return run(self._core.push(update, weight, round, name, encoding, cast))

    def events(self) -> EventStream:
        """Listens to what happens in the job, from now on.

        The stream connects again when the connection is lost. What happens in between is not heard: events are not
        kept. Iterating ends when the stream is closed.
        """
        return EventStream.listen(self._core.feed())

    # === its life ===

    def close(self) -> None:
        """Closes its connections. A second close does nothing."""
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({shown(self.addresses)!r}, job={self.job!r}, name={self.name!r})"

    def __getstate__(self) -> dict[str, Any]:
        return self._core.state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._core = Participant.restored(state, Blocking())


class EventStream:
    """An iterator of :class:`Event`; also a context manager."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    @classmethod
    def listen(cls, feed: Feed) -> EventStream:
        """A stream that listens already, so that nothing is missed between here and its first step."""
        run(feed.open())
        return cls(feed)

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> Event:
        event = run(self._feed.next())
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """Stops listening."""
        self._feed.close()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
