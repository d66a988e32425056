"""Content Credentials (C2PA): a signed note inside a file that says how it came to be.

The note says that the sound was created by a trained model (IPTC's digital source type), by
which program, from which settings, and holds a hash over the file. Whoever changes a byte, or
the note, breaks the signature; whoever takes the note out leaves a file without one. The key is
the host's own:

    FOLDER/key.pem            the private key, readable by its owner alone
    FOLDER/certificate.pem    its certificate and that of the authority made for it

The authority's own key is thrown away at once. Such a certificate proves that two files come
out of one host, not who that host is: programs call it valid, and its issuer untrusted.
Needs the package c2pa-python (requirements-provenance.txt).
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bark_core.audio import is_flac_after_id3
from bark_core.errors import InvalidAudio, InvalidSetting, StorageError
from bark_core.files import storage_error, write_bytes_atomically

SIGNED: Mapping[str, str] = {".wav": "audio/wav", ".mp3": "audio/mpeg", ".flac": "audio/flac"}
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
KEY_FILE, CERTIFICATE_FILE = "key.pem", "certificate.pem"
SETTINGS_LABEL = "org.bark-studio.settings"
PROGRAM = "Bark Studio"
YEARS = 10
_END = "-----END CERTIFICATE-----"
_DOCUMENT_SIGNING = "1.3.6.1.5.5.7.3.36"  # what C2PA wants a claim's certificate to be for
_OWN_AUTHORITY = "signingCredential.untrusted"  # no fault: nobody vouches for a host's own key


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A host's key, and the certificates that go into its files."""

    certificates: str  # PEM: its own, then its authority's
    private_key: str = field(repr=False)  # PEM, PKCS 8, P-256

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its own certificate, 64 hex digits: tells one host's files from another's."""
        return _fingerprint(self.certificates)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the credentials in a file say, and whether they hold.

    Attributes:
        intact: the signature holds, and nothing was changed since.
        own: and it is by the host's own key.
        generated: they say that a trained model made it.
        signer: the name in the certificate; anybody can write any name into one.
        problems: codes of what doesn't hold, as C2PA names them.
        settings: what it was made from, as far as the credentials say.
    """

    intact: bool
    own: bool
    generated: bool
    signer: str
    problems: tuple[str, ...]
    settings: Mapping[str, Any]


def can_sign() -> bool:
    """Whether the package that signs and reads is installed."""
    return importlib.util.find_spec("c2pa") is not None


def check_can_sign() -> None:
    """Raises InvalidSetting: the package that signs isn't installed, or can't be used."""
    _c2pa()


def own_signing_key(folder: Path) -> SigningKey:
    """The key of a folder; made there where there is none.

    Raises:
        InvalidSetting, StorageError: as `load_signing_key` and `make_signing_key`.
    """
    there = (folder / KEY_FILE).exists()
    return load_signing_key(folder) if there else make_signing_key(folder)


def make_signing_key(folder: Path, *, name: str = "Bark Studio host") -> SigningKey:
    """Make a key and its certificates in a folder that only its owner can read.

    Args:
        name: of the host, 1..64 characters; stands in every file that is signed.

    Raises:
        InvalidSetting: the name can't be one, or the packages are missing.
        StorageError: there is a key already, or the folder can't be written.
    """
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise InvalidSetting(f"a host's name must have 1 to 64 visible characters, got {name!r}")
    if (folder / KEY_FILE).exists():
        raise StorageError(
            f"there is a key in {folder} already, and files that it signed can't be told as this "
            "host's without it; move it away if you want another"
        )
    key = _made(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise storage_error("make", folder, error) from error
    before = os.umask(0o077)
    try:
        write_bytes_atomically(folder / CERTIFICATE_FILE, key.certificates.encode())
        # last: where it is, all is
        write_bytes_atomically(folder / KEY_FILE, key.private_key.encode())
    finally:
        os.umask(before)
    return key


def load_signing_key(folder: Path) -> SigningKey:
    """The key of a folder.

    Raises:
        StorageError: there is none, others can read it, or it is damaged.
    """
    path = folder / KEY_FILE
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise StorageError(f"others can read the key {path}; run: chmod 600 {path}")
        key = SigningKey((folder / CERTIFICATE_FILE).read_text(), path.read_text())
        _fingerprint(key.certificates)
    except StorageError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, OSError):
            raise storage_error("read", path, error) from error
        raise StorageError(
            f"the key in {folder} is damaged ({error}); put a copy back, or make a new one"
        ) from error
    return key


def sign(
    data: bytes, suffix: str, key: SigningKey, *, settings: Mapping[str, Any], version: str = ""
) -> bytes:
    """A sound file with credentials; other formats than SIGNED's come back as they are.

    Args:
        data: a whole file, with its tags: they can't be changed afterwards.
        settings: what it was made from, JSON.

    Raises:
        InvalidSetting: the package is missing. InvalidAudio: the file can't be signed.
    """
    media_type = SIGNED.get(suffix.lower())
    if media_type is None:
        return data
    c2pa = _c2pa()
    chain, secret = key.certificates.encode(), key.private_key.encode()
    info = c2pa.C2paSignerInfo("es256", chain, secret, None)
    signed = io.BytesIO()
    try:
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(_manifest(settings, version)) as builder,
        ):
            builder.set_intent(
                c2pa.C2paBuilderIntent.CREATE,
                c2pa.C2paDigitalSourceType.TRAINED_ALGORITHMIC_MEDIA,
            )
            builder.sign(signer, media_type, io.BytesIO(data), signed)
    except c2pa.C2paError as error:
        raise InvalidAudio(
            f"the file can't be signed ({error}); check the signing key, or leave signing off"
        ) from error
    return signed.getvalue()


def read_credentials(data: bytes, own: SigningKey | None = None) -> Credentials | None:
    """What the credentials in a file say; None where it has none. Nothing is fetched.

    Args:
        own: this host's key, to tell its own files from others'.

    Raises:
        InvalidSetting: the package is missing.
    """
    c2pa, media_type = _c2pa(), _media_type(data)
    if media_type is None:
        return None
    try:
        with (
            c2pa.Context(c2pa.Settings.from_dict(_reading(own))) as context,
            c2pa.Reader(media_type, io.BytesIO(data), context=context) as reader,
        ):
            state, results = reader.get_validation_state(), reader.get_validation_results()
            manifest = reader.get_active_manifest()
    except c2pa.C2paError as error:
        if "ManifestNotFound" in f"{type(error).__name__} {error}":
            return None
        return Credentials(False, False, False, "", (str(error)[:200],), {})
    failures = _list(_map(_map(results).get("activeManifest")).get("failure"))
    codes = (str(_map(failure).get("code")) for failure in failures)
    actions = _list(_assertion(manifest, "c2pa.actions").get("actions"))
    return Credentials(
        intact=state in ("Valid", "Trusted"),
        own=own is not None and state == "Trusted",
        generated=any(_map(action).get("digitalSourceType") == GENERATED for action in actions),
        signer=str(_map(_map(manifest).get("signature_info")).get("common_name", "")),
        problems=tuple(code for code in codes if code != _OWN_AUTHORITY),
        settings=_assertion(manifest, SETTINGS_LABEL),
    )


# --- the parts of it


def _c2pa() -> Any:
    try:
        import c2pa
    except (ImportError, OSError) as error:
        raise InvalidSetting(
            "Content Credentials need the package c2pa-python; run: pip install -r "
            "requirements-provenance.txt, or leave signing off"
        ) from error
    return c2pa


def _reading(own: SigningKey | None) -> dict[str, Any]:
    """How to read: trusting this host's own authority and nobody else, asking nobody."""
    verify = {"verify_trust": True, "remote_manifest_fetch": False, "ocsp_fetch": False}
    if own is None:
        return {"verify": verify}
    _own, _end, authority = own.certificates.partition(_END + "\n")
    return {"verify": verify, "trust": {"trust_anchors": authority}}


def _manifest(settings: Mapping[str, Any], version: str) -> dict[str, Any]:
    program = {"name": PROGRAM, **({"version": version} if version else {})}
    return {
        "claim_generator_info": [program],
        "title": str(settings.get("text", ""))[:80] or PROGRAM,
        "assertions": [{"label": SETTINGS_LABEL, "data": dict(settings)}],
    }


def _made(name: str) -> SigningKey:
    """A P-256 key and a certificate by an authority whose own key is forgotten here."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
    except ImportError as error:
        raise InvalidSetting(
            "making a signing key needs the package cryptography; run: pip install -r "
            "requirements-provenance.txt"
        ) from error

    def named(common_name: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, common_name),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, PROGRAM),
            ]
        )

    def usage(*, signs_files: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=signs_files,
            key_cert_sign=not signs_files,
            crl_sign=not signs_files,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )

    now = datetime.datetime.now(datetime.UTC)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = named(f"{name[:52]} (authority)")

    def begun(subject: x509.Name, public_key: Any) -> x509.CertificateBuilder:
        identifier = x509.SubjectKeyIdentifier.from_public_key(public_key)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            # clocks differ
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
            .add_extension(identifier, critical=False)
        )

    authority = (
        begun(issuer, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs_files=False), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    purposes = [ObjectIdentifier(_DOCUMENT_SIGNING), ExtendedKeyUsageOID.EMAIL_PROTECTION]
    own = (
        begun(named(name), key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(signs_files=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    chain = own.public_bytes(pem) + authority.public_bytes(pem)
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return SigningKey(chain.decode(), secret.decode())


def _fingerprint(certificates: str) -> str:
    """Of the first certificate of a PEM chain. Raises ValueError."""
    import ssl

    first, end, _rest = certificates.partition(_END)
    if not end:
        raise ValueError("there is no certificate in it")
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first.strip() + "\n" + end)).hexdigest()


def _media_type(data: bytes) -> str | None:
    """Of a file that can have credentials; by its content, not its name."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "audio/wav"
    if data[:4] == b"fLaC" or (data[:3] == b"ID3" and is_flac_after_id3(data)):
        return "audio/flac"
    if data[:3] == b"ID3" or (data[:1] == b"\xff" and data[1:2] and data[1] & 0xE0 == 0xE0):
        return "audio/mpeg"
    return None


def _assertion(manifest: Any, label: str) -> Mapping[str, Any]:
    for assertion in _list(_map(manifest).get("assertions")):
        if str(_map(assertion).get("label", "")).startswith(label):
            return _map(_map(assertion).get("data"))
    return {}


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
