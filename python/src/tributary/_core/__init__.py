"""What clients are made of. Not part of the interface.

Without I/O: `address`, `http` (requests, answers), `problems` (documents to errors), `retry` (when to try again),
`layout` and `arrays` (tensors), `body` (what is sent), `sse` (events), `weights` and names in `checks`.

With I/O, written once as coroutines over :class:`reactor.Reactor`, which can wait for a socket and sleep: `connection`,
`session`, `participant`, `slot`, `feed`. `blocking` and `asynchronous` are the two reactors. The blocking one never
suspends a coroutine, so :func:`blocking.run` finishes it in one step.
"""
