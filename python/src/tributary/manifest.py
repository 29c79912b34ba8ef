"""Manifests: what functions, tenants and jobs shall be, as objects and as files.

The files are those of ``tributary apply``. YAML is read and written with PyYAML (``pip install PyYAML``).
Without it files are read and written as JSON, which is YAML too.

Fields that are ``None`` are left out of the file, so the server's defaults hold. What the fields may be is said in
``docs/schemas``; the server checks it, and names every wrong field at once.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from tributary import errors

API_VERSION = "tributary.dev/v1"

M = TypeVar("M", bound="_Manifest")


def _at(path: str, default: Any = None) -> Any:
    """A field that stands at that path of the manifest."""
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata={"path": path})
    return dataclasses.field(default=default, metadata={"path": path})


class _Manifest:
    """What all kinds have in common: fields that stand at paths of a document, and the file that some of them name."""

    KIND: ClassVar[str]
    FILE: ClassVar[str | None] = None
    directory: Path

    @classmethod
    def load(cls: type[M], path: str | os.PathLike[str]) -> M:
        """Reads the one manifest of this kind in a file; relative paths in it start from the file's folder.

        Raises:
            InvalidManifest: there is none, there are several, or it has fields that do not exist.
            MissingPackage: it is YAML beyond JSON, and PyYAML is missing.
        """
        found = [manifest for manifest in load(path) if isinstance(manifest, cls)]
        if len(found) != 1:
            raise errors.InvalidManifest(
                f"{os.fspath(path)} has {len(found)} manifests of kind {cls.KIND}; one is needed. "
                "tributary.manifest.load reads files of several"
            )
        return found[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it: JSON if the name ends in ``.json`` or PyYAML is missing, else YAML.

        A relative path of model or module is written so that it names the same file from the new place.
        """
        target = Path(path)
        document = self.to_dict()
        if self.FILE is not None:
            file = document["spec"][_last(self.FILE)]
            if "path" in file and not Path(file["path"]).is_absolute():
                file["path"] = os.path.relpath(self.directory / file["path"], target.parent)
        target.write_text(_text(document, target), encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """The document, as JSON or YAML has it."""
        document: dict[str, Any] = {"apiVersion": API_VERSION, "kind": self.KIND, "metadata": {}, "spec": {}}
        for field in _fields(type(self)):
            value = getattr(self, field.name)
            if value is not None:
                path = field.metadata["path"]
                _put(document, path, _reference(value) if path == self.FILE else value)
        return document

    @classmethod
    def from_dict(cls: type[M], document: Mapping[str, Any], directory: str | os.PathLike[str] = ".") -> M:
        """Reads a document; relative paths in it start from ``directory``.

        Raises:
            InvalidManifest: it is of another kind, lacks a field, or has one that does not exist.
        """
        if document.get("kind") != cls.KIND or document.get("apiVersion") != API_VERSION:
            raise errors.InvalidManifest(
                f"kind and apiVersion are {document.get('kind')!r} and {document.get('apiVersion')!r}; "
                f"expected {cls.KIND!r} and {API_VERSION!r}"
            )
        leaves = _leaves(document, {field.metadata["path"] for field in _fields(cls)}, cls.FILE)
        known = {field.metadata["path"]: field.name for field in _fields(cls)}
        for path in leaves:
            if path not in known:
                near = difflib.get_close_matches(path, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise errors.InvalidManifest(f"{path}: unknown field{hint}")
        try:
            manifest = cls(**{known[path]: value for path, value in leaves.items()})
        except TypeError as error:
            raise errors.InvalidManifest(f"a {cls.KIND} lacks a field: {error}") from error
        manifest.directory = Path(directory)
        return manifest

    def file(self) -> Path | None:
        """The file that it names by a path, if it does."""
        if self.FILE is None:
            return None
        path = _reference(getattr(self, _last(self.FILE))).get("path")
        return None if path is None else self.directory / path

    def with_digest(self: M, digest: str) -> M:
        """The same, with its file named by a digest."""
        changed = copy.copy(self)
        setattr(changed, _last(self.FILE or ""), digest)
        return changed


@dataclasses.dataclass
class Job(_Manifest):
    """A federated-learning job: a model, the function that aggregates its updates, and when a round closes.

    Times are strings such as ``"30s"`` or ``"1m"``, with units ms, s, m, h and d.

    Attributes:
        name: the job's name.
        function: the name of the function; the job uses its newest revision.
        model: the path of a safetensors file of f32 tensors, the digest of one that is uploaded, ``sha256:...``, or
            arrays by name, which are converted to f32: the layout that every update must have, and version 1 of the
            model.
        expected: updates with which a round is complete.
        quorum: updates that are enough after ``deadline``.
        deadline: time from a round's first update after which the quorum is enough.
        config: the function's configuration; the function's page says what it may hold.
        rounds: the job is completed after so many; without it, it goes on until it is deleted.
        clients_max: the most distinct clients of a round.
        accumulate: the arithmetic of the sums; what is left out the function chooses.
        determinism: what the bytes of a model may depend on beside the updates.
        fan_in: children of an aggregator.
        keep_alive: idle time after which the job's aggregators and workers go; without it the autoscaler decides.
        idle_timeout: a client that sends nothing for so long in mid-body is given up.
        min_rate: the least that a client must send of its body in a second, on average, as ``64KiB``.
        non_finite: what is done with NaN and infinity, in updates and in the models that are made of them.
        weight_min: the least weight of an update.
        weight_max: the greatest weight of an update.
        checkpoint: what a published model survives: ``written``, any end of the process; ``synced``, of the machine.
        slots: slots of the job's shared memory.
        local: whether clients on the server's host may write updates into shared memory.
        count: updates with which a round closes, whoever sent them.
        window: time from a round's opening after which it closes with what is in.
        each: whether each update makes a model.
        timeout: time from a round's close after which what its model waits for is given up.
        staleness_max: updates from models so many versions old are taken; without it, from the newest only.
        staleness_weight: what the weight of such an update is multiplied by.
        staleness_a: the steepness of ``polynomial`` and ``hinge``.
        staleness_b: the staleness up to which ``hinge`` is 1.
        policy: how nodes are chosen, where there are several.
        nodes_max: the most nodes.
        selector: labels that a node must have.
        preferred: labels that a node should have.
        affinity: jobs whose nodes are filled first.
        anti_affinity: jobs that it never shares a node with.
        stragglers: what becomes of a node that is slow beside the others.
        tenant: whose the job is; without it ``default``'s. Tenants share nodes that are too small for all by weight.
        priority: jobs of higher priority come first where nodes are too small for all, -100 to 100; without it 0.
        directory: where relative paths start; the manifest's folder if it was loaded.
    """

    KIND: ClassVar[str] = "Job"
    FILE: ClassVar[str | None] = "spec.model"

    name: str = _at("metadata.name", dataclasses.MISSING)
    function: str = _at("spec.function.name", dataclasses.MISSING)
    model: str | os.PathLike[str] | Mapping[str, Any] = _at("spec.model", dataclasses.MISSING)
    expected: int | None = _at("spec.round.expected")
    quorum: int | None = _at("spec.round.quorum")
    deadline: str | None = _at("spec.round.deadline")
    config: Mapping[str, Any] | None = _at("spec.function.config")
    rounds: int | None = _at("spec.rounds")
    clients_max: int | None = _at("spec.clients.max")
    accumulate: Literal["f32", "f64", "exact"] | None = _at("spec.accumulate")
    determinism: Literal["none", "ordered", "exact"] | None = _at("spec.determinism")
    fan_in: int | None = _at("spec.tree.fanIn")
    keep_alive: str | None = _at("spec.keepAlive")
    idle_timeout: str | None = _at("spec.ingest.idleTimeout")
    min_rate: str | None = _at("spec.ingest.minRate")
    non_finite: Literal["reject", "allow"] | None = _at("spec.ingest.nonFinite")
    weight_min: float | None = _at("spec.ingest.weight.min")
    weight_max: float | None = _at("spec.ingest.weight.max")
    checkpoint: Literal["written", "synced"] | None = _at("spec.checkpoint")
    slots: int | None = _at("spec.arena.slots")
    local: Literal["allow", "refuse"] | None = _at("spec.ingest.local")
    count: int | None = _at("spec.round.count")
    window: str | None = _at("spec.round.window")
    each: bool | None = _at("spec.round.each")
    timeout: str | None = _at("spec.round.timeout")
    staleness_max: int | None = _at("spec.round.staleness.max")
    staleness_weight: Literal["constant", "polynomial", "hinge"] | None = _at("spec.round.staleness.weight")
    staleness_a: float | None = _at("spec.round.staleness.a")
    staleness_b: int | None = _at("spec.round.staleness.b")
    policy: Literal["bestFit", "worstFit", "firstFit", "spread"] | None = _at("spec.placement.policy")
    nodes_max: int | None = _at("spec.placement.nodes.max")
    selector: Mapping[str, str] | None = _at("spec.placement.selector")
    preferred: Mapping[str, str] | None = _at("spec.placement.preferred")
    affinity: Sequence[str] | None = _at("spec.placement.affinity")
    anti_affinity: Sequence[str] | None = _at("spec.placement.antiAffinity")
    stragglers: Literal["report", "bypass"] | None = _at("spec.placement.stragglers")
    tenant: str | None = _at("spec.tenant")
    priority: int | None = _at("spec.priority")
    directory: Path = dataclasses.field(default=Path(), kw_only=True, compare=False, repr=False)


@dataclasses.dataclass
class Function(_Manifest):
    """A function: a WebAssembly module that folds updates, and the limits under which it runs.

    Attributes:
        name: the function's name.
        module: the module's path, or the digest of one that is uploaded, ``sha256:...``.
        algebra: the class of aggregation rules that it belongs to.
        memory: the module's own memory, such as ``"64MiB"``.
        deadline: the time that one call may take, such as ``"2s"``.
        directory: where relative paths start; the manifest's folder if it was loaded.
    """

    KIND: ClassVar[str] = "Function"
    FILE: ClassVar[str | None] = "spec.module"

    name: str = _at("metadata.name", dataclasses.MISSING)
    module: str | os.PathLike[str] = _at("spec.module", dataclasses.MISSING)
    algebra: str | None = _at("spec.algebra")
    memory: str | None = _at("spec.limits.memory")
    deadline: str | None = _at("spec.limits.deadline")
    directory: Path = dataclasses.field(default=Path(), kw_only=True, compare=False, repr=False)


@dataclasses.dataclass
class Tenant(_Manifest):
    """A tenant: whom jobs belong to, and what that gives them where nodes are too small for all.

    Attributes:
        name: the tenant's name.
        weight: its part of such a node, against other tenants' weights, 0.01 to 1000; without it 1.
        jobs_max: the most jobs that it may have; without it there is no limit.
        directory: not used; a tenant names no file.
    """

    KIND: ClassVar[str] = "Tenant"

    name: str = _at("metadata.name", dataclasses.MISSING)
    weight: float | None = _at("spec.weight")
    jobs_max: int | None = _at("spec.jobs.max")
    directory: Path = dataclasses.field(default=Path(), kw_only=True, compare=False, repr=False)


Manifest = Job | Function | Tenant


def load(path: str | os.PathLike[str]) -> list[Manifest]:
    """Reads all manifests of a file, or of a folder's ``*.yaml`` and ``*.yml`` in the order of their names.

    Raises:
        InvalidManifest, MissingPackage, OSError.
    """
    source = Path(path)
    if source.is_dir():
        files = sorted(file for file in source.iterdir() if file.suffix in (".yaml", ".yml") and file.is_file())
        if not files:
            raise errors.InvalidManifest(f"{source} holds no *.yaml or *.yml file")
        return [manifest for file in files for manifest in load(file)]
    return [_read(document, source) for document in _documents(source)]


def _read(document: Any, source: Path) -> Manifest:
    kind = document.get("kind") if isinstance(document, Mapping) else None
    for manifest in (Job, Function, Tenant):
        if kind == manifest.KIND:
            try:
                return manifest.from_dict(document, source.parent)
            except errors.InvalidManifest as error:
                raise errors.InvalidManifest(f"{source}: {error.detail}") from error
    raise errors.InvalidManifest(f"{source}: kind is {kind!r}; there are 'Job', 'Function' and 'Tenant'")


def _documents(source: Path) -> list[Any]:
    text = source.read_text(encoding="utf-8")
    yaml = _yaml()
    if yaml is None:
        try:
            document = json.loads(text)
        except ValueError as error:
            raise errors.MissingPackage(f"{source} is not JSON; YAML needs PyYAML: pip install PyYAML") from error
        return document if isinstance(document, list) else [document]
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise errors.InvalidManifest(f"{source}: {error}") from error
    return [one for document in documents for one in (document if isinstance(document, list) else [document])]


def _text(document: dict[str, Any], target: Path) -> str:
    yaml = _yaml()
    if yaml is None or target.suffix == ".json":
        return json.dumps(document, indent=2) + "\n"
    return str(yaml.safe_dump(document, sort_keys=False))


def _yaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError:
        return None


# === paths in documents ===


def _fields(manifest: type[_Manifest]) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(manifest) if "path" in field.metadata]  # type: ignore[arg-type]


def _reference(name: Any) -> dict[str, str]:
    """A file, by its digest or its path."""
    if not isinstance(name, (str, os.PathLike)):
        raise errors.InvalidManifest(
            f"a file is named by its path or digest, and this is {type(name).__name__}; Server.upload takes arrays"
        )
    text = os.fspath(name)
    return {"digest": text} if text.startswith("sha256:") else {"path": text}


def _last(path: str) -> str:
    """The name of the field at that path."""
    return path.rpartition(".")[2]


def _put(document: dict[str, Any], path: str, value: Any) -> None:
    *folders, last = path.split(".")
    for folder in folders:
        document = document.setdefault(folder, {})
    document[last] = value


def _leaves(document: Mapping[str, Any], known: set[str], file: str | None) -> dict[str, Any]:
    """Every value by its path; the file's reference as the one text that it is."""
    leaves: dict[str, Any] = {}

    def walk(part: Any, path: str) -> None:
        if path == file and isinstance(part, Mapping) and len(part) == 1 and set(part) <= {"path", "digest"}:
            leaves[path] = next(iter(part.values()))
        elif path in known or not isinstance(part, Mapping):
            leaves[path] = part
        else:
            for name, inner in part.items():
                walk(inner, f"{path}.{name}" if path else str(name))

    walk({name: part for name, part in document.items() if name not in ("apiVersion", "kind")}, "")
    return leaves
