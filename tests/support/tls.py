"""A server certificate of this machine that nobody trusts, unless a test says so; it is valid from 2020 to 2120."""

import ssl
from pathlib import Path

_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgzvWfXcrI5DEPWQ2F
L75WjYfR8LYzOM8rSSnO8WLQlG2hRANCAAT/8byBjP8pjK5VkLWZtZoEIc9Mu9oy
WBkP6hdtl58JuzB4EwGpXt9vPalMsbBxE2lUfGJGwX010B1faTVnrJkX
-----END PRIVATE KEY-----
"""
_CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBejCCASCgAwIBAgIUUjGkTx3yP+1XfHXFpA98jMt7gY0wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAx
MDAwMDAwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAT/8byBjP8pjK5VkLWZtZoEIc9Mu9oyWBkP6hdtl58JuzB4EwGpXt9v
PalMsbBxE2lUfGJGwX010B1faTVnrJkXo04wTDAPBgNVHRMBAf8EBTADAQH/MBoG
A1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAdBgNVHQ4EFgQUyjW7OQqJaL/n8/zG
eSBYnyx5fYswCgYIKoZIzj0EAwIDSAAwRQIgG0pPkbE94SNm8AfukK3N+jU7a2Qc
2Ik0a0MwwBmw/pUCIQDuMTaKUiKqsCLGnvL7slSyEz+/1u4jzFvby3FzGuQINw==
-----END CERTIFICATE-----
"""


def certificate_file(folder: Path) -> Path:
    """The certificate and its key, in a new file."""
    path = folder / "localhost.pem"
    path.write_text(_KEY + _CERTIFICATE)
    return path


def server_context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file(folder))
    return context
