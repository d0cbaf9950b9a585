"""What a Manifest means on the network: addresses, names, the shield's policy, TF_CONFIG. Pure.

A member's addresses follow from session, place of its workload among the sorted names, and instance, so that
every member computes the same ones. Nobody routes them: shields translate them to SPIFFE IDs.
"""

import hashlib
import ipaddress
import json
from collections.abc import Iterable

from securetf.errors import ManifestValueError
from securetf.manifest.canonical import manifest_hash
from securetf.manifest.lookup import check_instance
from securetf.manifest.network_rules import GRPC, task_of
from securetf.manifest.outside_rules import spki
from securetf.manifest.types import Manifest, Workload

_V4_BASE = int(ipaddress.IPv4Address("100.64.0.0"))  # RFC 6598, /10: 22 bits for us
_OUTSIDE = 1 << 21  # the upper half stands for `external` names
_INSTANCE_BITS = 13  # 1 to 8191 within a workload, of which there are at most 256
_OUTSIDE_SUBNET = 0xFFFF


def address(manifest: Manifest, workload: str, instance: int) -> tuple[str, str]:
    """Return the virtual addresses of a member: IPv4 in 100.64.0.0/10, IPv6 in fd00::/8 (RFC 4193).

    Raises:
        ManifestValueError: no such workload or instance.
    """
    index = sorted(manifest.workloads).index(_member(manifest, workload, instance))
    return _addresses(manifest, index << _INSTANCE_BITS | instance + 1, index, instance + 1)


def external_address(manifest: Manifest, host: str) -> tuple[str, str]:
    """Return the virtual addresses that stand for a DNS name of `external`, the same for all workloads.

    Raises:
        ManifestValueError: no workload has this name in `external`.
    """
    hosts = sorted({_split(outside)[0] for one in manifest.workloads.values() for outside in one.external})
    if host not in hosts:
        raise ManifestValueError(f'no `external` names "{host}"', "name one that is there")
    number = hosts.index(host) + 1
    return _addresses(manifest, _OUTSIDE | number, _OUTSIDE_SUBNET, number)


def names(manifest: Manifest, workload: str, instance: int) -> list[str]:
    """Return the names by which programs know a member: `worker-1`, `worker-1.SESSION.TENANT.internal`.

    Raises:
        ManifestValueError: no such workload or instance.
    """
    short = f"{_member(manifest, workload, instance)}-{instance}".lower()
    tenant, session = manifest.session.name.lower().split("/")
    return [short, f"{short}.{session}.{tenant}.internal"]


def policy(manifest: Manifest, workload: str, instance: int, trust_domain: str) -> str:
    """Return the JSON that `crates/netshield/src/policy.rs` reads: all that this member may do.

    Raises:
        ManifestValueError: no such workload or instance.
    """
    _member(manifest, workload, instance)
    chosen = manifest.workloads[workload]
    return json.dumps(
        {
            "trust_domain": trust_domain,
            "session": manifest.session.name,
            "me": _known(manifest, workload, instance),
            "manifest_hash": manifest_hash(manifest).hex(),
            "listen": [
                {"name": name, "port": rule.port, "from": sorted(rule.sources)}
                for name, rule in sorted(chosen.listen.items())
            ],
            "connect": [
                {"member": _known(manifest, target, number), "ports": ports}
                for target, ports in sorted(_targets(manifest, chosen).items())
                for number in range(manifest.workloads[target].instances.maximum)
                if (target, number) != (workload, instance)
            ],
            "peers": [
                _known(manifest, source, number)
                for source in sorted({each for rule in chosen.listen.values() for each in rule.sources})
                for number in range(manifest.workloads[source].instances.maximum)
                if (source, number) != (workload, instance)
            ],
            "external": [
                {"host": host, "port": port, "addresses": list(external_address(manifest, host))}
                for host, port in sorted(map(_split, chosen.external))
            ],
            "outside": [
                {
                    "name": name,
                    "port": rule.port,
                    "alpn": list(rule.alpn),
                    "clients": None if rule.clients is None else [spki(key).hex() for key in rule.clients],
                }
                for name, rule in sorted(chosen.outside.items())
            ],
        },
        sort_keys=True,
        separators=(",", ":"),
    )


def cluster(manifest: Manifest, workload: str) -> dict[str, str]:
    """Return task type to workload of the TensorFlow cluster that a workload is in; empty if in none."""
    name = manifest.workloads[workload].tensorflow_cluster
    return {
        task_of(other, one): other
        for other, one in sorted(manifest.workloads.items())
        if name is not None and one.tensorflow_cluster == name
    }


def missing(manifest: Manifest, workload: str, members: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the (workload, instance) that must be `members` and are not, before `workload` may begin.

    Needed are instances 0 to `minimum` - 1 of all workloads of its TensorFlow cluster; without one, nobody.
    """
    there = set(members)
    return [
        (name, number)
        for name in sorted(cluster(manifest, workload).values())
        for number in range(manifest.workloads[name].instances.minimum)
        if (name, number) not in there
    ]


def tf_config(manifest: Manifest, workload: str, instance: int, members: Iterable[tuple[str, int]]) -> str:
    """Return TF_CONFIG for a member of a TensorFlow cluster, with virtual IPv4 addresses.

    members: the (workload, instance) that are attested. Named are instances 0 to `minimum` - 1, those that
    follow without a gap among `members`, and the member itself. An evaluator is in no one's cluster.

    Raises:
        ManifestValueError: no such workload or instance, or it is in no cluster.
    """
    _member(manifest, workload, instance)
    tasks, there = cluster(manifest, workload), {*members, (workload, instance)}
    if not tasks:
        raise ManifestValueError(
            f"workload {workload} is in no TensorFlow cluster", "add `tensorflow_cluster` to the Manifest"
        )
    hosts: dict[str, list[str]] = {}
    for task, name in tasks.items():
        if task == "evaluator":
            continue
        other = manifest.workloads[name]
        count = other.instances.minimum
        while (name, count) in there:
            count += 1
        if name == workload:
            count = max(count, instance + 1)
        port = other.listen[GRPC].port
        hosts[task] = [f"{address(manifest, name, number)[0]}:{port}" for number in range(count)]
    task = task_of(workload, manifest.workloads[workload])
    return json.dumps({"cluster": hosts, "task": {"type": task, "index": instance}}, sort_keys=True)


def _targets(manifest: Manifest, chosen: Workload) -> dict[str, list[int]]:
    ports: dict[str, set[int]] = {}
    for peer in chosen.connect:
        target, _, rule = peer.partition(":")
        ports.setdefault(target, set()).add(manifest.workloads[target].listen[rule].port)
    return {target: sorted(each) for target, each in ports.items()}


def _known(manifest: Manifest, workload: str, instance: int) -> dict[str, object]:
    return {
        "workload": workload,
        "instance": instance,
        "addresses": list(address(manifest, workload, instance)),
        "names": names(manifest, workload, instance),
    }


def _addresses(manifest: Manifest, v4: int, subnet: int, number: int) -> tuple[str, str]:
    site = hashlib.sha256(b"securetf network v1\0" + manifest.session.name.encode()).digest()[:5]
    v6 = bytes([0xFD]) + site + subnet.to_bytes(2, "big") + number.to_bytes(8, "big")
    return str(ipaddress.IPv4Address(_V4_BASE | v4)), str(ipaddress.IPv6Address(v6))


def _member(manifest: Manifest, workload: str, instance: int) -> str:
    check_instance(manifest, workload, instance)
    return workload


def _split(outside: str) -> tuple[str, int]:
    host, _, port = outside.rpartition(":")
    return host, int(port)
