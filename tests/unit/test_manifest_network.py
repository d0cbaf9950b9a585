"""Network keys of the Manifest: one-sided rules are refused; addresses, policy and TF_CONFIG follow from it."""

# ruff: noqa: E501  (the table of refusals reads best with one refusal per line)

import ipaddress
import json
import re
from pathlib import Path

import pytest

from securetf import manifest as manifests
from securetf.cli.manifest import command
from securetf.errors import ManifestValueError
from securetf.manifest import network

GOOD = """
[session]
name = "acme/digits"
[network]
certificate_lifetime_s = 20
[volumes.data]
[volumes.checkpoints]
writer = "worker"
per_instance = true
[workloads.chief]
command = ["chief"]
listen = { grpc = { port = 2222, from = [] } }
connect = ["ps:grpc", "worker:grpc"]
tensorflow_cluster = "training"
[workloads.ps]
command = ["ps"]
instances = { minimum = 2, maximum = 2 }
listen = { grpc = { port = 2223, from = ["chief", "worker"] } }
connect = ["worker:grpc"]
tensorflow_cluster = "training"
[workloads.worker]
command = ["worker"]
user_id = 1000
volumes = { data = "/data:ro", checkpoints = "/checkpoints:rw" }
instances = { minimum = 2, maximum = 4 }
listen = { grpc = { port = 2222, from = ["chief", "ps"] }, board = { port = 6006, from = ["viewer"] } }
connect = ["ps:grpc"]
tensorflow_cluster = "training"
[workloads.viewer]
command = ["viewer"]
connect = ["worker:board"]
external = { "api.bank.example:443" = "tls passthrough", "api.bank.example:8443" = "tls passthrough" }
[workloads.lonely]
command = ["lonely"]
"""
TRAINING = """
[session]
name = "acme/digits"
[workloads.chief]
command = ["train"]
listen = { grpc = { port = 2222, from = ["worker"] } }
connect = ["worker:grpc"]
tensorflow_cluster = "training"
[workloads.worker]
command = ["train"]
instances = { minimum = 2, maximum = 2 }
listen = { grpc = { port = 2222, from = ["worker", "chief"] } }
connect = ["worker:grpc", "chief:grpc"]
tensorflow_cluster = "training"
"""
REFUSALS = [
    # Manifest, what is changed, what it becomes, what the problem says, what the fix says
    (GOOD, 'connect = ["worker:board"]', "", 'from` names "viewer", but viewer does not connect to "worker:board"', '`workloads.viewer.connect`'),
    (GOOD, 'from = ["chief", "worker"]', 'from = ["chief"]', '`workloads.worker.connect` names "ps:grpc", but `workloads.ps.listen.grpc.from` does not name "worker"', 'add "worker" there'),
    (GOOD, '"worker:board"', '"worker:bord"', 'worker has no `listen` rule "bord"; it has board, grpc', 'did you mean "worker:board"?'),
    (GOOD, '"worker:board"', '"lonely:zzz"', 'lonely has no `listen` rule "zzz"; it has none', "add `workloads.lonely.listen.zzz`"),
    (GOOD, '"worker:board"', '"wrker:board"', 'names the workload "wrker", which is not defined', 'did you mean "worker"?'),
    (GOOD, 'from = ["viewer"]', 'from = ["vewer"]', 'board.from` names the workload "vewer", which is not defined', '"viewer"'),
    (GOOD, 'from = ["viewer"]', "from = []", "board.from` names nobody, so the port can never be reached", "remove the rule"),
    (GOOD, "port = 6006", "port = 2222", "listen.board` has the port 2222, which `workloads.worker.listen.grpc` has too", "port of its own"),
    (GOOD, "port = 6006", "port = 0", "`workloads.worker.listen.board.port` is 0, expected 1 to 65535", "correct"),
    (GOOD, "port = 6006, ", "", "`workloads.worker.listen.board.port` is missing", "add it"),
    (GOOD, "port = 6006", "prt = 6006", "`workloads.worker.listen.board.prt` is not a known key", "`port`"),
    (GOOD, '"worker:board"', '"worker"', 'connect[0]` is "worker", expected "workload:rule"', "correct"),
    (GOOD, '"api.bank.example:443" = "tls passthrough"', '"api.bank.example:443" = "plain"', '"plain", expected "tls passthrough"', "expected"),
    (GOOD, '"api.bank.example:443"', '"api.bank.example"', 'expected "name:port"', "correct"),
    (GOOD, '"api.bank.example:443"', '"10.0.0.1:443"', "is an address; the program's TLS needs a name", "certificate"),
    (GOOD, '"api.bank.example:443"', '"api..example:443"', "an empty or wrong label", "correct the name"),
    (GOOD, '"api.bank.example:443"', '"api.bank.example:70000"', "has the port 70000", "correct the port"),
    (GOOD, '"api.bank.example:443"', '"worker-1:443"', "a name of the session's own network", "connect ="),
    (GOOD, '"api.bank.example:443"', '"x.internal:443"', "a name of the session's own network", "connect ="),
    (GOOD, '"api.bank.example:443"', '"localhost:443"', "a name of the session's own network", "connect ="),
    (GOOD, "minimum = 2, maximum = 4", "minimum = 5, maximum = 4", "has minimum 5 above maximum 4", "raise `maximum`"),
    (GOOD, "minimum = 2, maximum = 4", "minimum = 0, maximum = 4", "`workloads.worker.instances.minimum` is 0", "correct"),
    (GOOD, "minimum = 2, maximum = 2", "minimum = 1, maximum = 2", "only workers that train with parameter servers may come and go", "the same"),
    (GOOD, 'listen = { grpc = { port = 2222, from = [] } }', "", "`workloads.chief.listen.grpc` is missing; TF_CONFIG names its port", "port = 2222"),
    (GOOD, 'listen = { grpc = { port = 2222, from = [] } }', "listen = { rpc = { port = 2222, from = [] } }", "listen.rpc.from` names nobody", "remove the rule"),
    (GOOD, 'command = ["chief"]', 'command = ["chief"]\ninstances = { maximum = 2 }', "maximum` is 2, but TensorFlow has one chief", "leave"),
    (GOOD, 'command = ["chief"]', 'command = ["chief"]\nenvironment = { TF_CONFIG = "{}" }', "sets TF_CONFIG, which the CAS issues", "remove"),
    (GOOD, 'command = ["lonely"]', 'command = ["lonely"]\ntensorflow_task = "ps"', "is set, but lonely is in no cluster", "tensorflow_cluster"),
    (GOOD, 'command = ["lonely"]', 'command = ["lonely"]\ntensorflow_cluster = "training"', '"lonely" is no task type of TensorFlow', 'tensorflow_task = "worker"'),
    (GOOD, 'command = ["lonely"]', 'command = ["lonely"]\ntensorflow_cluster = "training"\ntensorflow_task = "chief"\nlisten = { grpc = { port = 1 } }', 'chief and lonely both are the task "chief"', "another cluster"),
    (GOOD, 'command = ["lonely"]', 'command = ["lonely"]\ntensorflow_cluster = "other"\ntensorflow_task = "ps"\nlisten = { grpc = { port = 1 } }', '"other" has neither chief nor worker', "trains"),
    (GOOD, 'connect = ["ps:grpc"]', 'connect = []', '`workloads.ps.listen.grpc.from` names "worker", but worker does not connect', "remove"),
    (GOOD, 'from = ["chief", "worker"] } }\nconnect = ["worker:grpc"]', 'from = ["chief", "worker"] } }', 'listen.grpc.from` names "ps", but ps does not connect', "remove"),
    (TRAINING, 'from = ["worker", "chief"] } }\nconnect = ["worker:grpc", "chief:grpc"]', 'from = ["chief"] } }\nconnect = ["chief:grpc"]', '`workloads.worker.connect` does not name "worker:grpc"; in a TensorFlow cluster without parameter servers each worker dials each worker', 'add "worker:grpc" there'),
    (TRAINING, "minimum = 2, maximum = 2", "minimum = 1, maximum = 2", "may come and go", "the same"),
    (GOOD, "per_instance = true", "", "worker has up to 4 instances and a volume has one writer", "per_instance = true"),
    (GOOD, "[volumes.data]", '[volumes."checkpoints.1"]', "is also what instance 1's own checkpoints is called", "rename"),
    (GOOD, "per_instance = true", f'per_instance = true\nfreshness = "pinned"\nroot = "sha256:{"1" * 64}"', "a pinned volume is never written", "remove"),
    (GOOD, "[volumes.data]", f'[volumes.data]\nper_instance = true\nfreshness = "pinned"\nroot = "sha256:{"1" * 64}"', "is set for a volume of which each instance has its own", "remove `root`"),
    (GOOD, 'command = ["lonely"]', 'command = ["lonely"]\ninstances = { maximum = 5 }\nvolumes = { checkpoints = "/c:ro" }', "lonely has up to 5 instances and its writer worker 4", "as many"),
    (GOOD, "user_id = 1000", "user_id = 0", "`workloads.worker.user_id` is 0, expected 1 to", "correct"),
    (GOOD, "certificate_lifetime_s = 20", "certificate_lifetime_s = 5", "`network.certificate_lifetime_s` is 5, expected 10 to 604800", "correct"),
    (GOOD, "[workloads.lonely]", '[workloads.Worker]\ncommand = ["x"]\nlisten = { a = { port = 1, from = ["lonely"] } }\n[workloads.lonely]\nconnect = ["Worker:a"]', "worker and Worker have the same name in the DNS", "upper and lower case"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "old", "new", "problem", "fix"), REFUSALS)
def test_parse_when_a_network_rule_is_wrong_names_the_key_and_the_fix(
    text: str, old: str, new: str, problem: str, fix: str
) -> None:
    assert text.count(old) == 1, old
    with pytest.raises(ManifestValueError) as refused:
        manifests.parse(text.replace(old, new))
    assert problem in refused.value.problem
    assert fix in refused.value.fix


def test_parse_when_all_instances_are_too_many_says_so() -> None:
    text = '[session]\nname = "a/b"\n' + "".join(
        f'[workloads.w{n}]\ncommand = ["x"]\ninstances = {{ maximum = 1024 }}\n' for n in range(5)
    )
    with pytest.raises(ManifestValueError, match="up to 5120 instances together, the limit is 4096"):
        manifests.parse(text)


def test_hash_when_the_keys_of_this_release_have_their_defaults_is_that_of_the_release_before() -> None:
    plain = (
        '[session]\nname = "a/b"\n[secrets.s]\nkind = "value"\n[volumes.v]\n[workloads.w]\ncommand = ["x"]\n'
    )
    spelled = plain.replace(
        '["x"]', '["x"]\ninstances = { minimum = 1, maximum = 1 }\nlisten = {}\nconnect = []\nexternal = {}'
    ).replace("[volumes.v]", "[volumes.v]\nper_instance = false\n[network]\ncertificate_lifetime_s = 3600")
    assert b"instances" not in manifests.canonical(manifests.parse(plain))
    assert manifests.canonical(manifests.parse(plain)) == manifests.canonical(manifests.parse(spelled))


def test_hash_when_a_network_key_differs_from_its_default_differs() -> None:
    hashes = {
        manifests.manifest_hash(manifests.parse(GOOD.replace(old, new)))
        for old, new in (
            ("", ""),
            ("_s = 20", "_s = 21"),
            ("user_id = 1000", ""),
            ("port = 6006", "port = 6007"),
            ("api.bank", "api.bonk"),
            ("maximum = 4", "maximum = 3"),
        )
    }
    assert len(hashes) == 6


def test_canonical_when_a_rule_is_written_uses_the_words_of_the_manifest() -> None:
    tree = json.loads(manifests.canonical(manifests.parse(GOOD)))
    assert tree["workloads"]["ps"]["listen"] == {"grpc": {"from": ["chief", "worker"], "port": 2223}}


def test_diff_when_network_rules_change_says_each_in_a_sentence() -> None:
    new = GOOD.replace(', board = { port = 6006, from = ["viewer"] }', "").replace(
        'connect = ["worker:board"]', ""
    )
    fewer = manifests.parse(new.replace("maximum = 4", "maximum = 3"))
    assert manifests.diff(manifests.parse(GOOD), fewer) == [
        'workloads.viewer.connect no longer names "worker:board"',
        "workloads.worker.instances.maximum changes from 4 to 3",
        'workloads.worker.listen.board is removed; it was {"from":["viewer"],"port":6006}',
    ]


def test_addresses_when_made_for_all_members_and_names_are_distinct_and_in_their_ranges() -> None:
    manifest = manifests.parse(GOOD)
    all_of_them = [
        network.address(manifest, name, number)
        for name, workload in manifest.workloads.items()
        for number in range(workload.instances.maximum)
    ]
    all_of_them.append(network.external_address(manifest, "api.bank.example"))
    for position, inside in ((0, "100.64.0.0/10"), (1, "fd00::/8")):
        found = [ipaddress.ip_address(pair[position]) for pair in all_of_them]
        assert len(set(found)) == len(found)
        assert all(one in ipaddress.ip_network(inside) for one in found)


def test_addresses_when_made_stay_the_same_for_ever() -> None:
    manifest = manifests.parse(GOOD)
    assert network.address(manifest, "worker", 1) == ("100.64.128.2", "fd4a:b2c8:94b7:4::2")
    assert network.external_address(manifest, "api.bank.example")[0] == "100.96.0.1"
    other = manifests.parse(GOOD.replace("acme/digits", "acme/other"))
    assert network.address(other, "worker", 1)[1] != network.address(manifest, "worker", 1)[1]


@pytest.mark.parametrize(("workload", "instance"), [("worker", 4), ("worker", -1), ("nobody", 0)])
def test_address_when_there_is_no_such_member_is_refused(workload: str, instance: int) -> None:
    with pytest.raises(ManifestValueError, match=r"has no (instance|workload)"):
        network.address(manifests.parse(GOOD), workload, instance)


def test_names_when_asked_are_short_and_full() -> None:
    assert network.names(manifests.parse(GOOD), "worker", 1) == ["worker-1", "worker-1.digits.acme.internal"]


def test_policy_when_made_holds_exactly_what_the_manifest_allows() -> None:
    manifest = manifests.parse(GOOD)
    policy = json.loads(network.policy(manifest, "worker", 1, "domain"))
    addresses = list(network.address(manifest, "worker", 1))
    assert policy == {
        "trust_domain": "domain",
        "session": "acme/digits",
        "me": {
            "workload": "worker",
            "instance": 1,
            "addresses": addresses,
            "names": ["worker-1", "worker-1.digits.acme.internal"],
        },
        "manifest_hash": manifests.manifest_hash(manifest).hex(),
        "listen": [
            {"name": "board", "port": 6006, "from": ["viewer"]},
            {"name": "grpc", "port": 2222, "from": ["chief", "ps"]},
        ],
        "connect": [
            {
                "member": {
                    "workload": "ps",
                    "instance": number,
                    "addresses": list(network.address(manifest, "ps", number)),
                    "names": network.names(manifest, "ps", number),
                },
                "ports": [2223],
            }
            for number in (0, 1)
        ],
        "peers": [
            {
                "workload": name,
                "instance": number,
                "addresses": list(network.address(manifest, name, number)),
                "names": network.names(manifest, name, number),
            }
            for name in ("chief", "ps", "viewer")
            for number in range(manifest.workloads[name].instances.maximum)
        ],
        "external": [],
        "outside": [],
    }
    viewer = json.loads(network.policy(manifest, "viewer", 0, "domain"))
    outside = list(network.external_address(manifest, "api.bank.example"))
    assert viewer["external"] == [
        {"host": "api.bank.example", "port": port, "addresses": outside} for port in (443, 8443)
    ]
    assert [(rule["member"]["instance"], rule["ports"]) for rule in viewer["connect"]] == [
        (number, [6006]) for number in range(4)
    ]
    lonely = json.loads(network.policy(manifest, "lonely", 0, "domain"))
    assert (lonely["listen"], lonely["connect"], lonely["external"]) == ([], [], [])


def test_policy_when_members_of_one_workload_connect_to_each_other_leaves_out_oneself() -> None:
    policy = json.loads(network.policy(manifests.parse(TRAINING), "worker", 0, "domain"))
    assert [(rule["member"]["workload"], rule["member"]["instance"]) for rule in policy["connect"]] == [
        ("chief", 0),
        ("worker", 1),
    ]


def test_missing_when_some_are_attested_names_the_others_of_the_cluster() -> None:
    manifest = manifests.parse(GOOD)
    there = [("chief", 0), ("ps", 0), ("worker", 1), ("worker", 3), ("viewer", 0)]
    assert network.missing(manifest, "ps", there) == [("ps", 1), ("worker", 0)]
    assert network.missing(manifest, "lonely", []) == []


def test_tf_config_when_elastic_workers_come_names_them_without_a_gap() -> None:
    manifest = manifests.parse(GOOD)

    def config(workload: str, instance: int, members: list[tuple[str, int]]) -> tuple[int, dict[str, object]]:
        made = json.loads(network.tf_config(manifest, workload, instance, members))
        assert len(made["cluster"]["ps"]) == 2
        assert made["cluster"]["chief"] == [f"{network.address(manifest, 'chief', 0)[0]}:2222"]
        return len(made["cluster"]["worker"]), made["task"]

    assert config("chief", 0, []) == (2, {"type": "chief", "index": 0})
    assert config("chief", 0, [("worker", 2)]) == (3, {"type": "chief", "index": 0})
    assert config("chief", 0, [("worker", 3)]) == (2, {"type": "chief", "index": 0})
    assert config("worker", 3, [("worker", 0), ("worker", 1)]) == (4, {"type": "worker", "index": 3})


def test_tf_config_when_there_is_an_evaluator_leaves_it_out_of_the_cluster() -> None:
    text = (
        TRAINING
        + '[workloads.judge]\ncommand = ["x"]\ntensorflow_cluster = "training"\ntensorflow_task = "evaluator"\n'
    )
    made = json.loads(network.tf_config(manifests.parse(text), "judge", 0, []))
    assert set(made["cluster"]) == {"chief", "worker"}
    assert made["task"] == {"type": "evaluator", "index": 0}


def test_tf_config_when_the_workload_is_in_no_cluster_is_refused() -> None:
    with pytest.raises(ManifestValueError, match="lonely is in no TensorFlow cluster"):
        network.tf_config(manifests.parse(GOOD), "lonely", 0, [])


def test_volumes_when_per_instance_are_named_with_the_instance() -> None:
    manifest = manifests.parse(GOOD)
    assert manifests.mounts(manifest, "worker", 2) == {
        "data": ("/data", False),
        "checkpoints.2": ("/checkpoints", True),
    }
    found = {name: manifests.volume_rule(manifest, name) for name in (
        "data", "data.0", "checkpoints", "checkpoints.0", "checkpoints.3", "checkpoints.4", "checkpoints.03",
        "checkpoints.-1", "checkpoints.", "other",
    )}  # fmt: skip
    assert {name: rule for name, rule in found.items() if rule} == {
        "data": "data", "checkpoints.0": "checkpoints", "checkpoints.3": "checkpoints",
    }  # fmt: skip


def test_policy_when_compared_with_the_shields_structs_has_their_fields_and_no_other() -> None:
    source = (Path(__file__).parents[2] / "crates/netshield/src/policy.rs").read_text()
    structs = {
        name: set(re.findall(r"pub (\w+): ", body))
        for name, body in re.findall(r"pub struct (\w+) \{(.*?)^\}", source, re.MULTILINE | re.DOTALL)
    }
    manifest = manifests.parse(GOOD)
    worker, viewer = (
        json.loads(network.policy(manifest, name, 0, "domain")) for name in ("worker", "viewer")
    )
    assert set(worker) == structs["Policy"]
    assert set(worker["me"]) == set(worker["connect"][0]["member"]) == structs["Member"]
    assert set(worker["listen"][0]) == structs["ListenRule"]
    assert set(worker["connect"][0]) == structs["ConnectRule"]
    assert set(viewer["external"][0]) == structs["ExternalRule"]
    served = GOOD + "[workloads.viewer.outside]\nrest = { port = 8501, public = 443 }\n"
    outside = json.loads(network.policy(manifests.parse(served), "viewer", 0, "domain"))["outside"]
    assert set(outside[0]) == structs["OutsideRule"]


def test_manifest_check_when_there_are_rules_shows_who_reaches_whom(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "manifest.toml"
    path.write_text(GOOD)
    command.main(["check", str(path)], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "ps to worker:grpc" in shown
    assert "viewer to api.bank.example:443 (unshielded)" in shown
    assert "tensorflow clusters: training" in shown
    assert "note: `workloads.viewer.external` leaves the session" in shown
    command.main(["check", str(path), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["tensorflow_clusters"] == ["training"]
