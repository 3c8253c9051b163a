"""Who vouches for a host by a certificate (OpenSSH's PROTOCOL.certkeys)."""

from __future__ import annotations

import base64
import fnmatch
import time

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.hazmat.primitives.serialization.ssh import (
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
)


def authority_of(certificate: bytes, host: str) -> bytes | None:
    """The key, in wire format, of the authority that signed `certificate` for `host`.

    None when the certificate is not one of a host, is for others, not valid now, or has options that nobody knows.
    A certificate that names no host at all is for none.
    """
    length = int.from_bytes(certificate[:4], "big")
    line = certificate[4 : 4 + length] + b" " + base64.b64encode(certificate)
    try:
        found = load_ssh_public_identity(line)
        if not isinstance(found, SSHCertificate) or not _is_for(found, host):
            return None
        found.verify_cert_signature()
        signer = found.signature_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    except (ValueError, InvalidSignature, UnsupportedAlgorithm):
        return None
    return base64.b64decode(signer.split()[1])


def _is_for(certificate: SSHCertificate, host: str) -> bool:
    names = [name.decode("utf-8", "replace").lower() for name in certificate.valid_principals]
    return (
        certificate.type is SSHCertificateType.HOST
        and certificate.valid_after <= time.time() < certificate.valid_before
        and not certificate.critical_options
        and any(fnmatch.fnmatchcase(host, name) for name in names)
    )
