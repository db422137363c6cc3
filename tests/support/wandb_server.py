"""A W&B server on loopback, in this process, with the part of the protocol that our commands use.

    with serving() as server:
        os.environ.update(server.environment(tmp_path))     # or the `env` of a subprocess
        wandb.init(project="p").log({"loss": 1.0})
        server.run("p").history                             # [{"loss": 1.0, "_step": 0, ...}]

The real client (init, log, finish, resume, preempting, files), `wandb sweep`, `wandb agent` (grids)
and `wandb.Api` (runs with filters, order and pages, scan_history, files, sweeps, views, delete)
work against it. A run can log artifacts, whose files and manifest are stored; they have one version
and cannot be asked for but by their id. Files are listed by name and in pages, with their sizes;
their MD5 sums are left empty, patterns are ignored, and addresses are neither signed nor do they
expire. The id of a deleted run is not taken again. A file is listed, with size 0, from when a
client asks where to put it, and cannot be fetched until it is there.

A run of a sweep that exits after `mark_preempting` is handed to the next agent, with its whole
configuration as arguments, as W&B does. `server.fail(500, times=2, path="file_stream")` and
`server.hang("UpsertBucket")` make it misbehave.

`python -m tests.support.wandb_server` serves until Ctrl-C, and prints what to export in another
shell to use it.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import math
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import yaml

ENTITY = "tester"
HISTORY, EVENTS = "wandb-history.jsonl", "wandb-events.jsonl"
MANIFEST = "wandb_manifest.json"
ENDED = ("finished", "failed", "crashed", "preempted")
DELETED = "run {} was previously created and deleted; try a new run name"
Answer = Callable[["Server", dict], dict]
ANSWERS: dict[str, Answer] = {}
"""{GraphQL operation: what gives the `data` of its answer from the variables}"""


class RefusedError(Exception):
    """The server refuses an operation, with status 409."""


def answers(*operations: str) -> Callable[[Answer], Answer]:
    """Declare what answers some GraphQL operations."""

    def declare(answer: Answer) -> Answer:
        ANSWERS.update(dict.fromkeys(operations, answer))
        return answer

    return declare


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def connection(nodes: list[dict], *, start: int = 0, total: int | None = None) -> dict:
    """A page of nodes in GraphQL's form; a cursor is the number of nodes before it."""
    end = start + len(nodes)
    edges = [{"node": node, "cursor": str(start + i)} for i, node in enumerate(nodes, start=1)]
    more = total is not None and end < total
    return {
        "edges": edges,
        "pageInfo": {"__typename": "PageInfo", "endCursor": str(end), "hasNextPage": more},
    }


def project_node(entity: str, name: str, **fields: object) -> dict:
    return {
        "__typename": "Project", "id": f"project:{entity}/{name}", "internalId": "1", "name": name,
        "entityName": entity, "createdAt": now(), "isBenchmark": False, "readOnly": False,
        "user": None, "entity": {"id": f"entity:{entity}", "name": entity}, **fields,
    }  # fmt: skip


@dataclass
class Run:
    """One run as the server knows it."""

    entity: str
    project: str
    name: str
    """Its id for users."""
    created: str = field(default_factory=now)
    heartbeat: str = field(default_factory=now)
    state: str = "running"
    exitcode: int | None = None
    preempting: bool = False
    display_name: str | None = None
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    sweep: str | None = None
    tags: list[str] = field(default_factory=list)
    raw_config: dict[str, dict] = field(default_factory=dict)
    """{key: {"value": value}}, W&B's own `_wandb` included."""
    summary: dict = field(default_factory=dict)
    lines: dict[str, dict[int, str]] = field(default_factory=dict)
    """{streamed file: {offset: line}}"""
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"run:{self.entity}/{self.project}/{self.name}"

    @property
    def config(self) -> dict:
        return {key: entry["value"] for key, entry in self.raw_config.items() if key != "_wandb"}

    @property
    def history(self) -> list[dict]:
        return [json.loads(line) for line in self.streamed(HISTORY)]

    def streamed(self, file: str) -> list[str]:
        return [line for _, line in sorted(self.lines.get(file, {}).items())]

    def start_over(self) -> None:
        """What `init` does to an existing run of the same id, without `resume`."""
        self.lines, self.summary, self.exitcode, self.preempting = {}, {}, None, False

    def resume(self) -> None:
        """Make a run that ended active again."""
        if self.state in ENDED:
            self.state, self.preempting = "running", False

    def field(self, path: str) -> object:
        """What filters and orders name: `state`, `config.seed.value`, `summary_metrics.test/loss`,
        ..."""
        head, _, rest = path.partition(".")
        if head == "config":
            return self.config.get(rest.removesuffix(".value"))
        if head in ("summary_metrics", "summaryMetrics"):
            return self.summary.get(rest)
        names = {
            "displayName": "display_name",
            "jobType": "job_type",
            "created_at": "created",
            "createdAt": "created",
        }
        return getattr(
            self, names.get(head, "heartbeat" if head in ("heartbeat_at", "updatedAt") else head)
        )

    def stored(self, base: str) -> list[dict]:
        urls = {name: base + storage(self, name) for name in self.files}
        return [
            {"id": name, "name": name, "url": urls[name], "directUrl": urls[name], "mimetype": "",
             "sizeBytes": str(len(content)), "md5": "", "updatedAt": self.heartbeat}
            for name, content in self.files.items()
        ]  # fmt: skip

    def node(self, base: str) -> dict:
        telemetry = self.raw_config.get("_wandb", {}).get("value", {}).get("t")
        return {
            "id": self.id, "internalId": self.id, "projectId": "1", "name": self.name,
            "notes": self.notes, "displayName": self.display_name or self.name,
            "description": self.notes, "tags": self.tags, "group": self.group,
            "groupName": self.group, "jobType": self.job_type, "sweepName": self.sweep,
            "state": self.state, "exitcode": self.exitcode, "createdAt": self.created,
            "heartbeatAt": self.heartbeat, "updatedAt": self.heartbeat, "commit": None,
            "host": None, "readOnly": False, "stopped": False, "shouldStop": False,
            "failed": self.state == "failed", "running": self.state == "running",
            "config": json.dumps(self.raw_config), "summaryMetrics": json.dumps(self.summary),
            "systemMetrics": "{}", "historyLineCount": len(self.streamed(HISTORY)),
            "historyTail": json.dumps(self.streamed(HISTORY)[-1:]),
            "eventsLineCount": len(self.streamed(EVENTS)),
            "eventsTail": json.dumps(self.streamed(EVENTS)[-1:]),
            "logLineCount": len(self.streamed("output.log")), "historyKeys": self.history_keys(),
            "wandbConfig": json.dumps({"t": telemetry} if telemetry else {}),
            "user": {"name": ENTITY, "username": ENTITY},
            "project": project_node(self.entity, self.project),
            "files": connection(self.stored(base)),
        }  # fmt: skip

    def history_keys(self) -> dict:
        rows = self.history
        kinds = {
            key: "string" if isinstance(row[key], str) else "number" for row in rows for key in row
        }
        counts = Counter(key for row in rows for key in row)
        keys = {
            key: {
                "typeCounts": [{"type": kind, "count": counts[key]}],
                "monotonic": False,
                "previousValue": 0,
            }
            for key, kind in kinds.items()
        }
        return {"sets": [], "keys": keys, "lastStep": rows[-1]["_step"] if rows else -1}


@dataclass
class Sweep:
    """A grid whose points are handed to agents."""

    entity: str
    project: str
    name: str
    config: str
    state: str = "PENDING"
    created: str = field(default_factory=now)

    @property
    def points(self) -> list[dict]:
        """The points of the product, in order."""
        parameters = yaml.safe_load(self.config)["parameters"]
        values = [
            entry["values"] if "values" in entry else [entry["value"]]
            for entry in parameters.values()
        ]
        return [dict(zip(parameters, point, strict=True)) for point in itertools.product(*values)]

    def node(self, runs: list[Run], base: str) -> dict:
        return {
            "__typename": "Sweep", "id": f"sweep:{self.name}", "name": self.name,
            "displayName": self.name, "method": "grid", "state": self.state, "description": None,
            "config": self.config, "bestLoss": None, "createdAt": self.created, "updatedAt": now(),
            "heartbeatAt": now(), "earlyStopJobRunning": False, "controller": None,
            "scheduler": None, "runCount": len(runs), "runCountExpected": len(self.points),
            "runs": connection([run.node(base) for run in runs]),
        }  # fmt: skip


@dataclass
class Artifact:
    """An artifact that a run logged."""

    entity: str
    project: str
    name: str
    """Its id."""
    collection: str
    """Its name for users."""
    type: str
    run: str
    state: str = "PENDING"
    """COMMITTED when all its files are there."""
    files: dict[str, bytes] = field(default_factory=dict)
    """{name: content}, the manifest included."""

    def node(self) -> dict:
        sequence = {
            "__typename": "ArtifactSequence", "id": f"sequence:{self.collection}",
            "name": self.collection, "latestArtifact": None,
            "project": project_node(self.entity, self.project),
        }  # fmt: skip
        return {
            "__typename": "Artifact", "id": self.name, "state": self.state,
            "artifactSequence": sequence, "versionIndex": 0, "artifactType": {"name": self.type},
            "description": None, "metadata": "{}", "ttlDurationSeconds": 0,
            "ttlIsInherited": False, "tags": [], "historyStep": None, "digest": "",
            "size": sum(map(len, self.files.values())), "commitHash": None,
            "fileCount": len(self.files), "createdAt": now(), "updatedAt": None, "aliases": [],
        }  # fmt: skip


@dataclass
class Fault:
    """What happens to the next `times` requests whose path, or GraphQL operation, contains
    `path`."""

    path: str
    times: float
    status: int | None
    """None: no answer, until the server closes or `release` is called."""


class Server(ThreadingHTTPServer):
    """The server and all that it stores. Tests read `runs`, `sweeps`, `views` and `requests`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.runs: list[Run] = []
        self.sweeps: list[Sweep] = []
        self.artifacts: list[Artifact] = []
        self.views: dict[str, dict] = {}
        self.deleted: set[tuple[str, str, str]] = set()
        """(entity, project, id) of runs that were deleted: they are not made again."""
        self.requests: Counter[str] = Counter()
        """{GraphQL operation or path: how often it was asked for}"""
        self.agents: dict[str, Sweep] = {}
        self.faults: list[Fault] = []
        self.null = False
        """Whether every GraphQL operation is answered with no data at all."""
        self.released = threading.Event()
        self.lock = threading.RLock()
        self._numbers = itertools.count(1)

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing if a client was killed during a request."""

    def environment(self, folder: Path) -> dict[str, str]:
        """What a client needs to find this server, and to keep its own files under `folder`."""
        names = ("HOME", "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")
        folders = {name: str(Path(folder) / name.lower()) for name in names}
        for path in folders.values():
            Path(path).mkdir(parents=True, exist_ok=True)
        return folders | {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "k" * 40,
            "WANDB_ERROR_REPORTING": "false",
        }

    def run(self, project: str, name: str | None = None) -> Run:
        """A run of a project: the only one, or the one with this id."""
        (found,) = (run for run in self.runs if run.project == project and name in (None, run.name))
        return found

    def fail(self, status: int, times: float = 1, path: str = "") -> None:
        """Answer the next `times` requests with this status (`math.inf`: all)."""
        self.faults.append(Fault(path, times, status))

    def hang(self, path: str = "", times: float = math.inf) -> None:
        """Do not answer requests."""
        self.released.clear()
        self.faults.append(Fault(path, times, None))

    def release(self) -> None:
        """Answer all requests again."""
        self.faults.clear()
        self.released.set()

    def number(self) -> int:
        return next(self._numbers)

    def find(self, variables: dict, key: str = "name") -> Run | None:
        entity, project = located(variables)
        wanted = (entity, project, variables.get(key))
        return next(
            (run for run in self.runs if (run.entity, run.project, run.name) == wanted), None
        )

    def artifact(self, name: str) -> Artifact:
        return next(artifact for artifact in self.artifacts if artifact.name == name)

    def runs_of(self, sweep: Sweep) -> list[Run]:
        return [run for run in self.runs if run.sweep == sweep.name]


def located(variables: dict) -> tuple[str, str]:
    entity = variables.get("entity") or variables.get("entityName") or ENTITY
    return entity, variables.get("project") or variables.get("projectName") or "uncategorized"


def storage(owner: Run | Artifact, file: str) -> str:
    return quote(f"/storage/{owner.entity}/{owner.project}/{owner.name}/{file}")


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server on a free port, until the end of the block."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.release()
        server.shutdown()
        thread.join()
        server.server_close()


# ------------------------------------------------------------------- the client: init, log, finish


@answers("Viewer", "GetViewer", "GetDefaultEntity")
def viewer(server: Server, variables: dict) -> dict:
    teams = {"edges": [{"node": {"name": ENTITY}}]}
    return {
        "viewer": {
            "id": "user", "entity": ENTITY, "username": ENTITY, "name": ENTITY,
            "email": "tester@localhost", "admin": False, "flags": "{}", "deletedAt": None,
            "apiKeys": {"edges": []}, "teams": teams,
            "defaultEntity": {"id": f"entity:{ENTITY}", "name": ENTITY},
        }
    }  # fmt: skip


@answers("ServerInfo", "ServerFeaturesQuery")
def server_info(server: Server, variables: dict) -> dict:
    versions = {"min_cli_version": "0.10.0", "max_cli_version": "9.9.9"}
    return {
        "serverInfo": {"cliVersionInfo": versions, "latestLocalVersionInfo": None, "features": []}
    }


@answers("OrgFeatureFlags", "OrganizationCoreWeaveOrganizationID")
def no_organization(server: Server, variables: dict) -> dict:
    return {"entity": None}


@answers("RunResumeStatus")
def resume_status(server: Server, variables: dict) -> dict:
    run = server.find(variables)
    return {
        "model": project_node(*located(variables), bucket=run.node(server.url) if run else None)
    }


@answers("UpsertBucket")
def upsert_run(server: Server, variables: dict) -> dict:
    """Make or change a run. With an `id`, that run is changed; the name of a run that is not active
    starts it over."""
    known = next((run for run in server.runs if run.id == variables.get("id")), None)
    run = known or server.find(variables)
    if run is None and (*located(variables), variables["name"]) in server.deleted:
        raise RefusedError(DELETED.format(variables["name"]))
    inserted = run is None or run.state == "pending"
    if run is None:
        run = Run(*located(variables), variables["name"])
        server.runs.append(run)
    elif run.state in (*ENDED, "pending") and not known:
        run.start_over()
        run.state = "running"
    elif run.state == "pending":
        run.state = "running"
    elif variables.get("name"):  # a client resumes it; changes by the API have its id alone
        run.resume()
    names = {"displayName": "display_name", "groupName": "group", "jobType": "job_type"}
    for name in (
        "displayName",
        "display_name",
        "groupName",
        "jobType",
        "notes",
        "sweep",
        "tags",
        "state",
    ):
        if variables.get(name):
            setattr(run, names.get(name, name), variables[name])
    run.raw_config.update(json.loads(variables.get("config") or "{}"))
    run.summary.update(json.loads(variables.get("summaryMetrics") or "{}"))
    return {"upsertBucket": {"bucket": run.node(server.url), "inserted": inserted}}


@answers("RunStoppedStatus")
def stopped_status(server: Server, variables: dict) -> dict:
    return {"project": {"run": {"stopped": False}}}


@answers("CreateRunFiles")
def create_files(server: Server, variables: dict) -> dict:
    run = server.find(variables, "run")
    for name in variables["files"]:
        run.files.setdefault(name, b"")
    files = [
        {"name": name, "uploadUrl": server.url + storage(run, name)} for name in variables["files"]
    ]
    return {"createRunFiles": {"runID": run.id, "uploadHeaders": [], "files": files}}


@answers("CreateArtifact")
def create_artifact(server: Server, variables: dict) -> dict:
    said = variables["input"]
    artifact = Artifact(
        *located(said), f"artifact-{server.number()}", said["artifactCollectionName"],
        said["artifactTypeName"], said["runName"],
    )  # fmt: skip
    server.artifacts.append(artifact)
    return {"createArtifact": {"artifact": artifact.node()}}


@answers("CreateArtifactManifest")
def create_manifest(server: Server, variables: dict) -> dict:
    artifact = server.artifact(variables["artifactID"])
    file = {"id": "manifest", **upload(server, artifact, MANIFEST)}
    return {"createArtifactManifest": {"artifactManifest": {"id": "manifest", "file": file}}}


@answers("CreateArtifactFiles")
def create_artifact_files(server: Server, variables: dict) -> dict:
    nodes = []
    for spec in variables["input"]["artifactFiles"]:
        artifact = server.artifact(spec["artifactID"])
        place = {"storagePath": spec["name"], "uploadMultipartUrls": None}
        nodes.append(
            upload(server, artifact, spec["name"]) | place | {"artifact": {"id": artifact.name}}
        )
    return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}


@answers("CommitArtifact")
def commit_artifact(server: Server, variables: dict) -> dict:
    artifact = server.artifact(variables["artifactID"])
    artifact.state = "COMMITTED"
    return {"commitArtifact": {"artifact": {"id": artifact.name, "digest": ""}}}


@answers("ArtifactByID")
def artifact_by_id(server: Server, variables: dict) -> dict:
    return {"artifact": server.artifact(variables["id"]).node()}


def upload(server: Server, owner: Run | Artifact, name: str) -> dict:
    return {"uploadUrl": server.url + storage(owner, name), "uploadHeaders": []}


def file_stream(server: Server, run: Run, body: dict) -> dict:
    """Store lines of files by their offsets, so that a line that is sent twice is stored once; note
    the end of the run."""
    run.heartbeat = now()
    run.resume()
    for name, part in (body.get("files") or {}).items():
        if name == "wandb-summary.json":
            run.summary = json.loads(part["content"][-1])
        else:
            run.lines.setdefault(name, {}).update(enumerate(part["content"], start=part["offset"]))
    if body.get("preempting"):
        run.preempting, run.state = True, "preempting"
    if body.get("complete"):
        run.exitcode = body["exitcode"]
        unfinished = "preempted" if run.preempting else "failed"
        run.state = "finished" if run.exitcode == 0 else unfinished
    return {"exitcode": None, "limits": {}}


# ------------------------------------------------------------------- sweeps and agents


@answers("UpsertSweep")
def upsert_sweep(server: Server, variables: dict) -> dict:
    sweep = next(
        (s for s in server.sweeps if variables.get("id") in (s.name, f"sweep:{s.name}")), None
    )
    if sweep is None:
        sweep = Sweep(*located(variables), f"sweep{server.number():04d}", variables["config"])
        server.sweeps.append(sweep)
    sweep.config = variables.get("config") or sweep.config
    sweep.state = variables.get("state") or sweep.state
    node = {
        "id": f"sweep:{sweep.name}",
        "name": sweep.name,
        "project": project_node(sweep.entity, sweep.project),
    }
    return {"upsertSweep": {"sweep": node, "configValidationWarnings": []}}


@answers("SweepWithRuns", "GetSweep", "GetSweepState", "GetSweepLegacy")
def get_sweep(server: Server, variables: dict) -> dict:
    name = variables.get("sweep") or variables.get("name")
    sweep = next((sweep for sweep in server.sweeps if sweep.name == name), None)
    node = sweep.node(server.runs_of(sweep), server.url) if sweep else None
    return {"project": project_node(*located(variables), sweep=node)}


@answers("CreateAgent")
def create_agent(server: Server, variables: dict) -> dict:
    agent = f"agent{server.number():04d}"
    server.agents[agent] = next(
        sweep for sweep in server.sweeps if sweep.name == variables["sweep"]
    )
    return {"createAgent": {"agent": {"id": agent}}}


@answers("Heartbeat")
def heartbeat(server: Server, variables: dict) -> dict:
    sweep, busy = server.agents[variables["id"]], json.loads(variables.get("runState") or "{}")
    commands = [] if busy or sweep.state == "PAUSED" else [next_command(server, sweep)]
    return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}}


def next_command(server: Server, sweep: Sweep) -> dict:
    """Hand out a preempted run, with its whole configuration as arguments, or else the first point
    that has no run."""
    if sweep.state in ("CANCELED", "FINISHED", "STOPPED"):
        return {"type": "exit"}
    sweep.state = "RUNNING"
    runs = server.runs_of(sweep)
    program = yaml.safe_load(sweep.config).get("program")
    if preempted := next((run for run in runs if run.state == "preempted"), None):
        preempted.state, preempted.preempting = "pending", False
        return {
            "type": "resume",
            "run_id": preempted.name,
            "program": program,
            "args": preempted.raw_config,
        }
    for point in sweep.points:
        if not any(point.items() <= run.config.items() for run in runs):
            config = {key: {"value": value} for key, value in point.items()}
            run = Run(
                sweep.entity, sweep.project, f"{sweep.name}r{server.number():04d}", state="pending"
            )
            run.sweep, run.raw_config = sweep.name, dict(config)
            server.runs.append(run)
            return {"type": "run", "run_id": run.name, "program": program, "args": config}
    if all(run.state in ENDED for run in runs):
        sweep.state = "FINISHED"
    return {"type": "exit"}


# ------------------------------------------------------------------- wandb.Api and workspaces


@answers("GetProjects")
def get_projects(server: Server, variables: dict) -> dict:
    names = sorted({thing.project for thing in (*server.runs, *server.sweeps)})
    return {"models": connection([project_node(variables["entity"], name) for name in names])}


@answers("ProjectInternalId")
def project_id(server: Server, variables: dict) -> dict:
    return {"project": project_node(*located(variables))}


@answers("Runs")
def get_runs(server: Server, variables: dict) -> dict:
    entity, project = located(variables)
    everything = [run for run in server.runs if (run.entity, run.project) == (entity, project)]
    if not everything and not any(sweep.project == project for sweep in server.sweeps):
        return {"project": None}
    wanted = json.loads(variables.get("filters") or "{}")
    found = [run for run in everything if matches(run, wanted)]
    order = variables.get("order") or "+created_at"
    key = order.lstrip("+-")
    found.sort(
        key=lambda run: (run.field(key) is None, run.field(key)), reverse=order.startswith("-")
    )
    start, count = int(variables.get("cursor") or 0), int(variables.get("perPage") or 50)
    nodes = [run.node(server.url) for run in found[start : start + count]]
    runs = connection(nodes, start=start, total=len(found))
    return {"project": project_node(entity, project, runCount=len(found), runs=runs)}


COMPARISONS: dict[str, Callable] = {
    "$eq": lambda value, x: x in value if isinstance(value, list) else value == x,
    "$ne": lambda value, x: x not in value if isinstance(value, list) else value != x,
    "$in": lambda value, x: any(v in x for v in value) if isinstance(value, list) else value in x,
    "$nin": lambda value, x: not COMPARISONS["$in"](value, x),
    "$exists": lambda value, x: (value is not None) == x,
    "$regex": lambda value, x: value is not None and re.search(x, value) is not None,
    "$gt": lambda value, x: value is not None and value > x,
    "$gte": lambda value, x: value is not None and value >= x,
    "$lt": lambda value, x: value is not None and value < x,
    "$lte": lambda value, x: value is not None and value <= x,
}


def matches(run: Run, wanted: dict) -> bool:
    """Whether a run meets a filter in MongoDB's language."""
    for key, condition in wanted.items():
        if key in ("$and", "$or"):
            if not (all if key == "$and" else any)(matches(run, part) for part in condition):
                return False
            continue
        compared = condition if isinstance(condition, dict) else {"$eq": condition}
        if not all(COMPARISONS[name](run.field(key), x) for name, x in compared.items()):
            return False
    return True


@answers("RunFiles")
def run_files(server: Server, variables: dict) -> dict:
    """A page of the files with these names (none named: all)."""
    run, names = server.find(variables), variables.get("fileNames")
    if run is None:
        return {"project": project_node(*located(variables), run=None)}
    nodes = [node for node in run.stored(server.url) if not names or node["name"] in names]
    start, count = int(variables.get("fileCursor") or 0), int(variables.get("fileLimit") or 50)
    page = connection(nodes[start : start + count], start=start, total=len(nodes))
    node = run.node(server.url) | {"fileCount": len(nodes), "files": page}
    return {"project": project_node(*located(variables), run=node)}


@answers("Run", "RunState", "RunHistoryKeys", "QueryRunInfo")
def get_run(server: Server, variables: dict) -> dict:
    key = next(key for key in ("name", "run", "runName") if variables.get(key))
    run = server.find(variables, key)
    return {"project": project_node(*located(variables), run=run.node(server.url) if run else None)}


@answers("RunParquetHistory")
def parquet_history(server: Server, variables: dict) -> dict:
    return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": []}}}}


@answers("HistoryPage")
def history_page(server: Server, variables: dict) -> dict:
    steps = range(int(variables["minStep"]), int(variables["maxStep"]))
    rows = [
        json.dumps(row) for row in server.find(variables, "run").history if row["_step"] in steps
    ]
    return {"project": {"run": {"history": rows}}}


@answers("DeleteRun")
def delete_run(server: Server, variables: dict) -> dict:
    gone = [run for run in server.runs if run.id == variables["id"]]
    server.deleted |= {(run.entity, run.project, run.name) for run in gone}
    server.runs = [run for run in server.runs if run not in gone]
    return {"deleteRun": {"clientMutationId": None}}


@answers("UpsertView2", "upsertView")
def upsert_view(server: Server, variables: dict) -> dict:
    """Store a workspace or a report."""
    name = variables.get("name") or f"view{server.number():04d}"
    inserted = name not in server.views
    server.views[name] = variables | {"id": f"view:{name}", "name": name}
    entity, project = located(variables)
    place = {"id": project, "name": project, "entityName": entity}
    view = server.views[name] | {"project": place, "updatedAt": now()}
    return {"upsertView": {"view": view, "inserted": inserted}}


@answers("View")
def get_view(server: Server, variables: dict) -> dict:
    found = [view for view in server.views.values() if view["name"] == variables.get("viewName")]
    entity = variables.get("entityName") or ENTITY
    return {"project": project_node(entity, variables["name"], allViews=connection(found))}


# ------------------------------------------------------------------- HTTP


class Handler(BaseHTTPRequestHandler):
    """Answers GraphQL, file streams, uploads and downloads."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments: object) -> None:
        """Tests read `Server.requests` instead."""

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), json.loads(self.read() or b"{}")
        if path == "/graphql":
            named = re.search(r"\b(?:query|mutation)\s+(\w+)", body["query"])
            operation = body.get("operationName") or named[1]
            if self.misbehaves(operation):
                return
            with self.server.lock:
                self.reply(*answer(self.server, operation, body.get("variables") or {}))
        elif stream := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path):
            if self.misbehaves("file_stream"):
                return
            entity, project, name = stream.groups()
            with self.server.lock:
                run = self.server.find({"entity": entity, "project": project, "name": name})
                self.reply(
                    *(
                        (200, file_stream(self.server, run, body))
                        if run
                        else (404, {"error": "no such run"})
                    )
                )
        else:
            self.reply(404, {"error": f"nothing is posted to {path}"})

    def do_PUT(self) -> None:
        content = self.read()
        if self.misbehaves("storage"):
            return
        run, name = self.stored()
        if run:
            run.files[name] = content
        self.reply(200 if run else 404, {})

    def do_GET(self) -> None:
        if self.misbehaves("storage"):
            return
        run, name = self.stored()
        if run and run.files.get(name):
            self.send(200, "application/octet-stream", run.files[name])
        else:
            self.reply(404, {"error": f"no file {self.path}"})

    def stored(self) -> tuple[Run | Artifact | None, str]:
        """The run or artifact and the file name in the path of a request."""
        parts = unquote(urlsplit(self.path).path).split("/", 5)
        if len(parts) < 6 or parts[1] != "storage":
            return None, ""
        _, _, entity, project, name, file = parts
        owners = [*self.server.runs, *self.server.artifacts]
        wanted = entity, project, name
        return next((o for o in owners if (o.entity, o.project, o.name) == wanted), None), file

    def misbehaves(self, name: str) -> bool:
        """Whether a fault answered the request."""
        with self.server.lock:
            self.server.requests[name] += 1
            faults = [
                fault for fault in self.server.faults if fault.times > 0 and fault.path in name
            ]
            if not faults:
                return False
            faults[0].times -= 1
        if faults[0].status is None:
            self.server.released.wait()
            self.close_connection = True
        else:
            self.reply(faults[0].status, {"error": "a fault that the test asked for"})
        return True

    def read(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(parts)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def reply(self, status: int, answer: dict) -> None:
        self.send(status, "application/json", json.dumps(answer).encode())

    def send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def answer(server: Server, operation: str, variables: dict) -> tuple[int, dict]:
    """Status and body for a GraphQL operation; an unknown operation gets an error that names it."""
    if server.null:
        return 200, {"data": None}
    if operation in ANSWERS:
        try:
            return 200, {"data": ANSWERS[operation](server, variables)}
        except RefusedError as refused:
            return 409, {"data": None, "errors": [{"message": str(refused)}]}
    return 200, {
        "data": None,
        "errors": [{"message": f"the test server does not know the operation {operation}"}],
    }


if __name__ == "__main__":
    with (
        serving() as server,
        tempfile.TemporaryDirectory() as folder,
        contextlib.suppress(KeyboardInterrupt),
    ):
        for name, value in server.environment(Path(folder)).items():
            print(f"export {name}={value}", flush=True)
        threading.Event().wait()
