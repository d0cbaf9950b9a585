"""Two members of a session, on two hosts: what crosses the wire, who is let in, and what happens when one dies."""

# ruff: noqa: E501  (programs)

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from support.cloud import alive, until
from support.hosts import Hosts
from support.pair import CANARY, PORT, STEADFAST, Pair

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces")]


INTERCEPTORS = pytest.mark.parametrize("interceptor", ["namespace", "seccomp"])


@INTERCEPTORS
def test_members_on_two_hosts_when_they_talk_show_nothing_on_the_wire(
    pair: Pair, interceptor: str, hosts: Hosts, tmp_path: Path
) -> None:
    pair.create(pair.text(pair.client(5)))
    with hosts.captured(tmp_path / "wire") as capture:
        server = pair.run("server", "--interceptor", interceptor)
        server.wait_for("listening")
        client = pair.run("client", "--interceptor", interceptor)
        assert client.wait() == 0, client.said
        assert client.said.count(f"{100 * len(CANARY) + 1} bytes") == 5
        if interceptor == "namespace":  # S shows a loopback address instead
            server.wait_for("from fd")  # the virtual address of client-0
        server.process.terminate()
        assert server.wait() == 143, server.said
    wire = (tmp_path / "wire").read_bytes()
    assert len(wire) > 5 * 100 * len(CANARY)
    assert CANARY not in wire
    assert capture.found([CANARY]) == 0
    network = pair.report("client")["network"]
    assert (network["interceptor"], network["outbound"], network["refused"]) == (interceptor, 1, 0)
    assert network["sent_bytes"] == 5 * (100 * len(CANARY) + 1)
    assert pair.report("server")["network"]["inbound"] == 1


DENIED = f"""
import errno, os, socket
def reach(address, family=socket.AF_INET):
    stream = socket.socket(family)
    stream.settimeout(5)
    try:
        stream.connect(address)
        return "connected"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
print("host", reach((os.environ["HOST"], 22)))
print("own address", reach(("client-0", {PORT})))
print("other port", reach(("server-0", {PORT + 1})))
print("v6", reach(("2001:db8::1", 443), socket.AF_INET6))
try:
    print("name", socket.getaddrinfo("www.example.org", 443))
except socket.gaierror as error:
    print("name", "not known")
"""


@INTERCEPTORS
def test_program_when_it_dials_what_the_manifest_does_not_name_is_refused_at_once_and_the_cas_is_told(
    pair: Pair, interceptor: str, hosts: Hosts
) -> None:
    pair.create(
        pair.text([sys.executable, "-c", DENIED], extra=f'environment = {{ HOST = "{hosts.address}" }}')
    )
    begin = time.monotonic()
    client = pair.run("client", "--interceptor", interceptor)
    assert client.wait() == 0, client.said
    for line in ("host ECONNREFUSED", "other port ECONNREFUSED", "v6 ECONNREFUSED", "name not known"):
        assert line in client.said, client.said
    assert time.monotonic() - begin < 30
    assert f"refused outbound {hosts.address}:22 by" in client.said
    assert pair.report("client")["network"]["refused"] >= 3
    told = [one for one in pair.audit() if f"{hosts.address}:22" in str(one)]
    assert told, pair.audit()


def test_program_without_rules_has_no_network_at_all(pair: Pair, hosts: Hosts) -> None:
    program = (
        "import socket\n"
        f"for address in ('{hosts.address}', '127.0.0.1'):\n"
        "    stream = socket.socket(); stream.settimeout(5)\n"
        "    print(address, stream.connect_ex((address, 22)))\n"
        "own = socket.create_server(('127.0.0.1', 0)); print('own', socket.create_connection(own.getsockname()).getpeername()[0])\n"
    )
    text = pair.text(pair.client())
    pair.create(f"{text}[workloads.alone]\ncommand = {json.dumps([sys.executable, '-c', program])}\n")
    alone = pair.run("alone")
    assert alone.wait() == 0, alone.said
    assert f"{hosts.address} 111" in alone.said
    assert "own 127.0.0.1" in alone.said
    assert pair.report("alone")["network"] == {"interceptor": "namespace"}


def test_launcher_when_killed_takes_the_program_and_its_connections_with_it_at_once(pair: Pair) -> None:
    text = pair.text(
        [sys.executable, "-c", "import os, time\nprint('pid', os.getpid(), flush=True)\ntime.sleep(60)"]
    )
    pair.create(text)
    client = pair.run("client")
    client.wait_for("pid ")
    pid = int(client.said.split("pid ")[1].split()[0])
    assert alive(pid)
    begin = time.monotonic()
    client.process.send_signal(signal.SIGKILL)
    client.process.wait()
    until(lambda: not alive(pid), 30)  # it would sleep for a minute
    assert time.monotonic() - begin < 40


def test_member_when_killed_and_started_again_rejoins_with_the_next_generation(pair: Pair) -> None:
    pair.create(pair.text(pair.client(2)))
    server = pair.run("server")
    server.wait_for("listening")
    assert pair.run("client").wait() == 0
    server.process.kill()
    server.wait()
    again = pair.run("server", name="again")
    again.wait_for("listening")
    client = pair.run("client", name="later")
    assert client.wait() == 0, client.said
    members = pair.cloud.client.members(pair.name, pair.cloud.owner).members
    assert {one.workload: one.generation for one in members} == {"server": 2, "client": 2}


def test_member_when_its_manifest_is_older_never_joins_and_says_why(pair: Pair, tmp_path: Path) -> None:
    text = pair.text(pair.client())
    pair.create(text)
    old = tmp_path / "old.toml"
    old.write_text(text)
    current = pair.cloud.client.read_session(pair.name, pair.cloud.owner).manifest_hash
    newer = pair.text(pair.client(4), predecessor=f'predecessor = "{current}"')
    pair.cloud.client.update_session(newer, pair.cloud.owner)
    late = pair.run("client", manifest=old)
    assert late.wait() == 12
    assert "[STF-1104]" in late.said
    assert "dialling" not in late.said


def test_member_when_the_manifest_is_replaced_is_cut_off_and_ended_and_says_why(pair: Pair) -> None:
    pair.create(pair.text(pair.client(1000, 0.2, STEADFAST)))
    server = pair.run("server")
    server.wait_for("listening")
    client = pair.run("client")
    client.wait_for("1 ")
    current = pair.cloud.client.read_session(pair.name, pair.cloud.owner).manifest_hash
    pair.cloud.client.update_session(
        pair.text(pair.client(4), predecessor=f'predecessor = "{current}"'), pair.cloud.owner
    )
    for one in (client, server):
        assert one.wait(30) == 12, one.said
        assert "this member is revoked: [STF-1104]" in one.said


@pytest.mark.slow
def test_connection_when_certificates_live_10_s_lives_on_for_a_minute(pair: Pair) -> None:
    pair.create(pair.text(pair.client(120, 0.5), lifetime_s=10))
    server = pair.run("server")
    server.wait_for("listening")
    client = pair.run("client")
    assert client.wait(120) == 0, client.said
    assert client.said.count(" bytes\n") == 120
    network = pair.report("client")["network"]
    assert network["renewals"] >= 8
    assert network["outbound"] == 1  # one connection of the program, all the time
    assert network["resumed"] >= 5
