"""Rules between the network keys of a Manifest: both sides agree, and TensorFlow gets what it needs."""

from typing import NoReturn

from securetf.errors import ManifestValueError
from securetf.manifest.convert import dotted, nearest
from securetf.manifest.types import Manifest, Workload

MAX_MEMBERS = 4096  # of all workloads together
GRPC = "grpc"  # the `listen` rule whose port TF_CONFIG names
_NEEDED = {  # who dials whom, as traced from TensorFlow 2.21; with and without parameter servers
    True: {("chief", "ps"), ("chief", "worker"), ("worker", "ps"), ("ps", "worker")},
    False: {("chief", "worker"), ("worker", "chief"), ("worker", "worker")},
}


def check(manifest: Manifest) -> None:
    """Raise ManifestValueError for the first rule that is one-sided, unreachable or not enough."""
    members = 0
    for name, workload in manifest.workloads.items():
        low, high = workload.instances.minimum, workload.instances.maximum
        members += high
        if low > high:
            _refuse(
                f"`{dotted('workloads', name, 'instances')}` has minimum {low} above maximum {high}",
                "raise `maximum`, or lower `minimum`",
            )
        _listen(manifest, name, workload)
        _external(manifest, name, workload)
    if members > MAX_MEMBERS:
        _refuse(
            f"the workloads have up to {members} instances together, the limit is {MAX_MEMBERS}",
            "lower `instances.maximum`, or divide the session",
        )
    _names(manifest)
    for name, workload in manifest.workloads.items():
        _connect(manifest, name, workload)
    for name, workload in manifest.workloads.items():
        _answered(manifest, name, workload)
    _clusters(manifest)


def task_of(name: str, workload: Workload) -> str:
    """Return the workload's TensorFlow task type: its own name unless `tensorflow_task` says another."""
    return workload.tensorflow_task or name


def _listen(manifest: Manifest, name: str, workload: Workload) -> None:
    ports: dict[int, str] = {}
    for rule, listen in workload.listen.items():
        key = dotted("workloads", name, "listen", rule)
        if listen.port in ports:
            _refuse(
                f"`{key}` has the port {listen.port}, which `{ports[listen.port]}` has too",
                "give each rule a port of its own, or allow all sources in one rule",
            )
        ports[listen.port] = key
        if not listen.sources and (workload.tensorflow_cluster is None or rule != GRPC):
            _refuse(
                f"`{key}.from` names nobody, so the port can never be reached",
                "name the workloads that may connect, or remove the rule",
            )
        for source in listen.sources:
            if source not in manifest.workloads:
                _undefined(source, manifest, f"{key}.from")


def _answered(manifest: Manifest, name: str, workload: Workload) -> None:
    """Refuse a `from` that names a workload which does not connect."""
    for rule, listen in workload.listen.items():
        key, peer = dotted("workloads", name, "listen", rule, "from"), f"{name}:{rule}"
        for source in listen.sources:
            if peer not in manifest.workloads[source].connect:
                _refuse(
                    f'`{key}` names "{source}", but {source} does not connect to "{peer}"',
                    f'add "{peer}" to `{dotted("workloads", source, "connect")}`, or remove "{source}" here',
                )


def _connect(manifest: Manifest, name: str, workload: Workload) -> None:
    key = dotted("workloads", name, "connect")
    for peer in workload.connect:
        target, _, rule = peer.partition(":")
        other = manifest.workloads.get(target)
        if other is None:
            _undefined(target, manifest, key)
        elif rule not in other.listen:
            there = ", ".join(sorted(other.listen)) or "none"
            _refuse(
                f'`{key}` names "{peer}", but {target} has no `listen` rule "{rule}"; it has {there}',
                f"did you mean \"{target}:{near}\"?" if (near := nearest(rule, other.listen))
                else f"add `{dotted('workloads', target, 'listen', rule)}` with a port and `from`",
            )  # fmt: skip
        elif name not in other.listen[rule].sources:
            _refuse(
                f'`{key}` names "{peer}", but `{dotted("workloads", target, "listen", rule, "from")}` does '
                f'not name "{name}"',
                f'add "{name}" there, or remove "{peer}" here',
            )


def _external(manifest: Manifest, name: str, workload: Workload) -> None:
    for outside in workload.external:
        key = dotted("workloads", name, "external", outside)
        host, _, port = outside.rpartition(":")
        labels = host.split(".")
        if int(port) > 65535:
            _refuse(f"`{key}` has the port {port}, expected 1 to 65535", "correct the port")
        if any(not label or len(label) > 63 or label[0] == "-" or label[-1] == "-" for label in labels):
            _refuse(f"`{key}` is no DNS name: an empty or wrong label", "correct the name")
        if labels[-1].isdigit():
            _refuse(
                f"`{key}` is an address; the program's TLS needs a name to check",
                "name the server as its certificate does",
            )
        inside = host.endswith(".internal") or any(
            host.startswith(f"{other.lower()}-") and host[len(other) + 1 :].isdigit()
            for other in manifest.workloads
        )
        if host == "localhost" or host.endswith(".localhost") or inside:
            _refuse(
                f"`{key}` is a name of the session's own network",
                'reach members by `connect = ["workload:rule"]`',
            )


def _names(manifest: Manifest) -> None:
    """Members are known by names of the DNS, which does not tell upper from lower case."""
    known: dict[str, str] = {}
    for name, workload in manifest.workloads.items():
        if not workload.listen:
            continue
        if name.lower() in known:
            _refuse(
                f"the workloads {known[name.lower()]} and {name} have the same name in the DNS",
                "let them differ in more than upper and lower case",
            )
        known[name.lower()] = name


def _clusters(manifest: Manifest) -> None:
    clusters: dict[str, dict[str, str]] = {}
    for name, workload in manifest.workloads.items():
        if workload.tensorflow_cluster is None:
            if workload.tensorflow_task is not None:
                _refuse(
                    f"`{dotted('workloads', name, 'tensorflow_task')}` is set, but {name} is in no cluster",
                    "add `tensorflow_cluster`, or remove the key",
                )
            continue
        cluster = workload.tensorflow_cluster
        task = _task(name, workload)
        other = clusters.setdefault(cluster, {}).setdefault(task, name)
        if other != name:
            _refuse(
                f'the workloads {other} and {name} both are the task "{task}" of cluster "{cluster}"',
                "make them one workload with more instances, or name another cluster",
            )
    for cluster, tasks in clusters.items():
        _cluster(manifest, cluster, tasks)


def _task(name: str, workload: Workload) -> str:
    """Return the task type if the workload can have it."""
    task = task_of(name, workload)
    key = dotted("workloads", name, "tensorflow_task")
    if task not in {"chief", "worker", "ps", "evaluator"}:
        _refuse(
            f'`{key}` is missing; "{name}" is no task type of TensorFlow (chief, worker, ps, evaluator)',
            f'add `{key} = "worker"`, or another of them',
        )
    if task in {"chief", "evaluator"} and workload.instances.maximum > 1:
        _refuse(
            f"`{dotted('workloads', name, 'instances', 'maximum')}` is {workload.instances.maximum}, but "
            f"TensorFlow has one {task}",
            "leave `instances` out",
        )
    if "TF_CONFIG" in {*workload.environment, *workload.host_environment}:
        _refuse(
            f"`{dotted('workloads', name)}` sets TF_CONFIG, which the CAS issues for a cluster",
            "remove the variable, or `tensorflow_cluster`",
        )
    if task != "evaluator" and GRPC not in workload.listen:
        _refuse(
            f"`{dotted('workloads', name, 'listen', GRPC)}` is missing; TF_CONFIG names its port",
            f"add `{dotted('workloads', name, 'listen', GRPC, 'port')} = 2222`, and in `from` who connects",
        )
    return task


def _cluster(manifest: Manifest, cluster: str, tasks: dict[str, str]) -> None:
    if not {"chief", "worker"} & set(tasks):
        _refuse(
            f'the TensorFlow cluster "{cluster}" has neither chief nor worker',
            "add a workload that trains",
        )
    elastic = {"worker"} if "ps" in tasks else set()
    for task, name in tasks.items():
        instances = manifest.workloads[name].instances
        if instances.minimum != instances.maximum and task not in elastic:
            _refuse(
                f"`{dotted('workloads', name, 'instances')}` has minimum {instances.minimum} and maximum "
                f"{instances.maximum}; only workers that train with parameter servers may come and go",
                "let both be the same",
            )
    for source, target in sorted(_NEEDED["ps" in tasks]):
        if source not in tasks or target not in tasks:
            continue
        one, other = tasks[source], tasks[target]
        alone = one == other and manifest.workloads[one].instances.maximum == 1
        peer = f"{other}:{GRPC}"
        if not alone and peer not in manifest.workloads[one].connect:
            kind = "with" if "ps" in tasks else "without"
            _refuse(
                f'`{dotted("workloads", one, "connect")}` does not name "{peer}"; in a TensorFlow cluster '
                f"{kind} parameter servers each {source} dials each {target}",
                f'add "{peer}" there, and "{one}" to `{dotted("workloads", other, "listen", GRPC, "from")}`',
            )


def _undefined(name: str, manifest: Manifest, key: str) -> NoReturn:
    near = nearest(name, manifest.workloads)
    _refuse(
        f'`{key}` names the workload "{name}", which is not defined',
        f'did you mean "{near}"?' if near else f"add `[{dotted('workloads', name)}]`",
    )


def _refuse(problem: str, fix: str) -> NoReturn:
    raise ManifestValueError(problem, fix)
