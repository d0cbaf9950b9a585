"""What the host says about the tunnel: read strictly, and never more than an address."""

import socket

import pytest

from securetf.errors import EnvironmentUnfitError, PortInUseError, UsageError
from securetf.shields.network import ProgramNetwork, address


@pytest.mark.parametrize("text", ["10.0.0.5:15443", "127.0.0.1:0", "[2001:db8::5]:65535"])
def test_address_when_it_is_ip_and_port_is_read(text: str) -> None:
    host, port = address(text, "--tunnel")
    assert text in (f"{host}:{port}", f"[{host}]:{port}")


@pytest.mark.parametrize(
    "text",
    ["", "host:1", "10.0.0.5", "10.0.0.5:", "10.0.0.5:65536", "10.0.0.5:-1", "2001:db8::5:1", "[10.0.0.5]:1"],
)
def test_address_when_it_is_not_says_so(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        address(text, "--tunnel")
    assert refused.value.problem == f"`--tunnel {text}` is not IP:PORT"


def network(tunnel: str, advertise: str | None = None) -> ProgramNetwork:
    return ProgramNetwork(tunnel=tunnel, advertise=advertise, interceptor="auto")


def test_endpoint_when_the_port_is_0_is_the_one_that_was_taken_and_stays() -> None:
    one = network("127.0.0.1:0")
    host, port = address(one.endpoint(), "")
    assert (str(host), port > 0) == ("127.0.0.1", True)
    assert address(one.endpoint(), "")[1] == port
    one.lower()


def test_endpoint_when_another_is_advertised_is_that_one_with_the_tunnels_port() -> None:
    assert network("127.0.0.1:0", "192.0.2.7:4000").endpoint() == "192.0.2.7:4000"
    one = network("127.0.0.1:0", "192.0.2.7:0")
    assert one.endpoint() == f"192.0.2.7:{one._listener.address.rpartition(':')[2]}"


def test_tunnel_when_it_listens_everywhere_needs_an_address_to_advertise() -> None:
    with pytest.raises(UsageError, match="others cannot be told which"):
        network("0.0.0.0:0")
    assert network("0.0.0.0:0", "192.0.2.7:4000").endpoint() == "192.0.2.7:4000"


def test_endpoint_when_the_port_is_taken_or_the_address_is_not_ours_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(PortInUseError) as refused:
            network(f"127.0.0.1:{taken.getsockname()[1]}").endpoint()
        assert "--tunnel" in refused.value.fix
    with pytest.raises(EnvironmentUnfitError):
        network("192.0.2.7:4000").endpoint()


def test_endpoint_when_there_are_public_ports_listens_there_too_or_says_why_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        one = ProgramNetwork(
            tunnel="127.0.0.1:0", advertise=None, interceptor="auto", outside={"rest": f"127.0.0.1:{port}"}
        )
        with pytest.raises(PortInUseError) as refused:
            one.endpoint()
        assert "--outside" in refused.value.fix
    one.endpoint()
    socket.create_connection(("127.0.0.1", port), 10).close()
    one.lower()
    with pytest.raises(UsageError, match="`--outside rest` is not IP:PORT"):
        ProgramNetwork(tunnel="127.0.0.1:0", advertise=None, interceptor="auto", outside={"a": "rest"})


def test_new_key_when_made_is_another_each_time_and_of_p256() -> None:
    one = network("127.0.0.1:0")
    first, second = one.new_key(), one.new_key()
    assert first != second
    assert len(first) == len(second) == 91  # RFC 5480: SubjectPublicKeyInfo of P-256, uncompressed
