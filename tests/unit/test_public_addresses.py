import pytest

from millrace_runtime.public_addresses import is_odd_address, is_public_address


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public(address: str) -> None:
    assert is_public_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.8",
        "192.0.0.192",
        "::ffff:192.0.0.192",
        "0.0.0.0",  # noqa: S104
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
    ],
)
def test_not_public(address: str) -> None:
    assert not is_public_address(address)


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="example"):
        is_public_address("example.com")


@pytest.mark.parametrize(
    "host",
    ["2130706433", "127.1", "0177.0.0.1", "0", "0x7f000001", "0X7F.1", "127.0.0.0x1", "1.2.3.4.5", "127.1."],
)
def test_other_spellings_of_addresses(host: str) -> None:
    assert is_odd_address(host)


@pytest.mark.parametrize(
    "host",
    ["8.8.8.8", "::1", "::ffff:8.8.8.8", "example.com", "1.example", "0x7f.example", "xn--0-1.x1", "x0"],
)
def test_what_is_spelled_as_usual(host: str) -> None:
    assert not is_odd_address(host)
