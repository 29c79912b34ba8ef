"""Manifests as objects are the manifests of the schemas and of `tributary validate`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from conftest import MakeClient, MakeJob
from process import BINARY, GIVEN_UP_AFTER, ROOT
from tributary import Function, Job, Server, Tenant, errors
from tributary.manifest import Manifest, _fields, load

DIGEST = "sha256:" + "ab" * 32

FULL_JOB = Job(
    "digits",
    "fedavg",
    DIGEST,
    expected=20,
    quorum=15,
    deadline="30s",
    config={"accumulate": "exact"},
    rounds=20,
    clients_max=1000,
    determinism="none",
    fan_in=4,
    keep_alive="30s",
    idle_timeout="5s",
    min_rate="32KiB",
    non_finite="allow",
    slots=600,
)
LATE_JOB = Job(
    "late",
    "fedavg",
    DIGEST,
    expected=12,
    count=10,
    staleness_max=4,
    staleness_weight="hinge",
    staleness_a=0.5,
    staleness_b=2,
)
PLACED_JOB = Job(
    "placed",
    "fedavg",
    DIGEST,
    1,
    policy="worstFit",
    nodes_max=3,
    selector={"disk": "ssd"},
    preferred={"zone": "a"},
    affinity=["digits"],
    anti_affinity=["other"],
    stragglers="bypass",
    tenant="research",
    priority=-5,
)
FULL_FUNCTION = Function("fedavg", DIGEST, algebra="monoid", memory="64MiB", deadline="2s")
FULL_TENANT = Tenant("research", weight=2.5, jobs_max=10)


def schema(kind: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ROOT / f"docs/schemas/{kind}.json").read_text())
    return document


def test_the_repositorys_manifests_round_trip() -> None:
    job, function = Job.load(ROOT / "manifests/digits.yaml"), Function.load(ROOT / "manifests/functions.yaml")
    assert (job.name, job.expected, job.config, job.fan_in) == ("digits", 20, {"accumulate": "f64"}, 4)
    assert job.file() == ROOT / "manifests/digits/initial.safetensors"
    assert (function.name, function.memory) == ("fedavg", "64MiB")
    assert job.to_dict() == yaml.safe_load((ROOT / "manifests/digits.yaml").read_text())
    assert function.to_dict() == yaml.safe_load((ROOT / "manifests/functions.yaml").read_text())
    late, spread = Job.load(ROOT / "manifests/digits-async.yaml"), Job.load(ROOT / "manifests/digits-nodes.yaml")
    assert (late.count, late.staleness_max, late.staleness_weight, late.staleness_a) == (10, 4, "polynomial", 0.5)
    assert spread.policy == "spread"
    tenants = load(ROOT / "manifests/tenants.yaml")
    assert tenants[:2] == [Tenant("production", weight=3), Tenant("research", weight=1, jobs_max=10)]
    assert [(one.tenant, one.priority) for one in tenants if isinstance(one, Job)] == [
        ("production", None),
        ("research", -10),
    ]
    assert load(ROOT / "manifests") == [late, spread, job, function, *tenants]


@pytest.mark.parametrize(
    "manifest", [FULL_JOB, LATE_JOB, PLACED_JOB, FULL_FUNCTION, FULL_TENANT, Tenant("a"), Job("a", "b", DIGEST, 1)]
)
@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_what_is_saved_is_valid_and_is_read_again(tmp_path: Path, manifest: Manifest, ending: str) -> None:
    jsonschema.validate(manifest.to_dict(), schema(manifest.KIND.lower()))
    path = tmp_path / f"manifest.{ending}"
    manifest.save(path)
    assert load(path) == [manifest]
    validated = subprocess.run([BINARY, "validate", "-f", path], capture_output=True, text=True, check=False)
    assert validated.returncode == 0, validated.stderr


def test_every_field_of_the_schemas_is_there() -> None:
    for kind, manifest in (("job", Job), ("function", Function), ("tenant", Tenant)):
        paths = {field.metadata["path"] for field in _fields(manifest)}
        assert paths == set(_paths(schema(kind), "", manifest.FILE))


def _paths(part: dict[str, Any], path: str, file: str | None) -> Iterator[str]:
    for name, inner in part.get("properties", {}).items():
        below = f"{path}.{name}" if path else name
        if below in ("apiVersion", "kind"):
            continue
        if below != file and "properties" in inner:
            yield from _paths(inner, below, file)
        else:
            yield below


def test_paths_follow_the_manifest(tmp_path: Path) -> None:
    job = Job.load(ROOT / "manifests/digits.yaml")
    job.save(tmp_path / "elsewhere.yaml")
    moved = Job.load(tmp_path / "elsewhere.yaml").file()
    assert moved is not None
    assert moved.resolve() == job.file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spec": {"rounds": 1, "roundz": 2}}, r"spec\.roundz: unknown field; did you mean spec\.rounds\?"),
        ({"spec": {"round": {"quorom": 1}}}, r"spec\.round\.quorom: unknown field; did you mean spec\.round\.quorum\?"),
        ({"spec": {"rounds": 1}}, "lacks a field.*function"),
        ({"kind": "Jobb"}, "kind is 'Jobb'; there are 'Job', 'Function' and 'Tenant'"),
        ({"apiVersion": "v2"}, "apiVersion are 'Job' and 'v2'"),
    ],
)
def test_wrong_manifests(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    document = {"apiVersion": "tributary.dev/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": {}, **change}
    (tmp_path / "wrong.json").write_text(json.dumps(document))
    with pytest.raises(errors.InvalidManifest, match=words) as caught:
        load(tmp_path / "wrong.json")
    assert "wrong.json" in str(caught.value)


def test_files_without_manifests(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidManifest, match=r"holds no \*\.yaml"):
        load(tmp_path)
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(errors.InvalidManifest, match=r"broken\.yaml"):
        load(tmp_path)
    (tmp_path / "broken.yaml").write_text("just text")
    with pytest.raises(errors.InvalidManifest, match="kind is None"):
        load(tmp_path / "broken.yaml")
    with pytest.raises(errors.InvalidManifest, match="has 0 manifests of kind Job"):
        Job.load(ROOT / "manifests/functions.yaml")


def test_without_pyyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    FULL_JOB.save(tmp_path / "job.yaml")
    assert json.loads((tmp_path / "job.yaml").read_text()) == FULL_JOB.to_dict()
    assert Job.load(tmp_path / "job.yaml") == FULL_JOB
    with pytest.raises(errors.MissingPackage, match=r"pip install PyYAML"):
        load(ROOT / "manifests/digits.yaml")


# === applied ===


def test_a_dry_run_uploads_nothing(server: Server, new_job: MakeJob) -> None:
    function = server.function(server.job(new_job()).function)
    model = {"w": np.full(3, 7.25)}
    job = Job("only-looked-at", function.name, model, expected=1)
    for _ in range(2):
        (applied,) = server.apply(job, dry_run=True)
        assert applied.action == "created"
        assert any("not uploaded yet" in note for note in applied.notes)
    with pytest.raises(errors.UnknownJob):
        server.job("only-looked-at")


def test_a_completed_job_that_is_applied_again_says_so(
    server: Server, new_job: MakeJob, new_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    name = new_job(rounds=1)
    client = new_client(name)
    client.push(client.pull())
    assert client.pull(after=1, wait=GIVEN_UP_AFTER) is not None
    (applied,) = server.apply(server.manifest(name))
    assert (applied.action, len(applied.notes)) == ("unchanged", 1)
    assert "the job is completed, and no round is open: to train anew delete it first" in caplog.messages[-1]


def test_the_first_model_of_a_job_stays(server: Server, new_job: MakeJob) -> None:
    job = server.manifest(new_job({"w": np.zeros(3, np.float32)}))
    job.model = {"w": np.ones(3, np.float32)}
    for dry_run in (True, False):
        with pytest.raises(errors.InvalidManifest, match="another first model would change nothing"):
            server.apply(job, dry_run=dry_run)


def test_every_model_has_the_first_ones_metadata(
    server: Server, new_job: MakeJob, new_client: MakeClient, tmp_path: Path
) -> None:
    metadata = {"format": "pt", "lm_head.weight": "embed.weight", "version": "mine", "round": "9"}
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "first.safetensors", metadata)
    job = server.manifest(new_job())
    job.name, job.model = "with-metadata", str(tmp_path / "first.safetensors")
    server.apply(job)
    client = new_client("with-metadata")
    first = client.pull()
    client.push(first)
    for version, model in ((1, first), (2, client.pull(after=1, wait=GIVEN_UP_AFTER))):
        assert model is not None
        kept = {"format": "pt", "lm_head.weight": "embed.weight", "version": str(version)}
        assert model.layout.metadata == kept
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "first.safetensors", {"note": "x" * (64 << 10)})
    job.name = "too-much-metadata"
    with pytest.raises(errors.InvalidManifest, match=r"__metadata__ has \d+ bytes of names and values; .* of its own"):
        server.apply(job)


def test_apply(server: Server, new_job: MakeJob) -> None:
    name = new_job()
    job = server.manifest(name)
    assert str(job.model).startswith("sha256:")
    assert [(one.name, one.action) for one in server.apply(job)] == [(name, "unchanged")]
    job.expected = 7
    before = server.job(name).revision
    dry = server.apply([job], dry_run=True)[0]
    assert (dry.action, dry.revision) == ("configured", before + 1)
    assert [(change.path, change.before, change.after) for change in dry.diff] == [("spec.round.expected", 1, 7)]
    assert server.job(name).expected == 1
    assert server.apply(job)[0].action == "configured"
    assert server.job(name).expected == 7
    assert name in [status.name for status in server.jobs()]
    assert name in server.function("fedavg").jobs
    assert [status.round for status in server.rounds(name)] == [1]
    assert [node.cores > 0 for node in server.nodes()] == [True]
    assert "tributary_" in server.metrics()
    assert server.health()


def test_apply_of_files(server: Server, tmp_path: Path) -> None:
    job = Job.load(ROOT / "manifests/digits.yaml")
    job.name = "from-a-file"
    job.save(tmp_path / "job.yaml")
    assert server.apply(tmp_path / "job.yaml")[0].name == "from-a-file"
    assert server.apply([str(tmp_path)])[0].action == "unchanged"
    server.delete("job", "from-a-file")


def test_tenants(server: Server, new_job: MakeJob) -> None:
    assert [applied.action for applied in server.apply(Tenant("research", weight=2.5))] == ["created"]
    job = server.manifest(new_job())
    assert server.job(job.name).sharing == {"tenant": "default", "weight": 1.0, "priority": 0}
    job.tenant, job.priority = "research", 7
    assert server.apply(job)[0].notes == []
    assert server.job(job.name).sharing == {"tenant": "research", "weight": 2.5, "priority": 7}
    with pytest.raises(errors.InUse, match=job.name):
        server.delete("tenant", "research")
    server.apply(Tenant("research", weight=0.5))
    assert (server.tenant("research").weight, server.tenant("research").jobs) == (0.5, [job.name])
    assert server.job(job.name).sharing == {"tenant": "research", "weight": 0.5, "priority": 7}
    assert [tenant.name for tenant in server.tenants()] == ["default", "research"]
    server.delete("job", job.name)
    server.delete("tenant", "research")
    with pytest.raises(errors.UnknownTenant):
        server.tenant("research")


def test_a_model_that_is_not_there(server: Server) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        server.apply(Job("a", "fedavg", "nowhere.safetensors", expected=1))
