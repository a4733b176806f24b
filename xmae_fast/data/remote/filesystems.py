"""Questions to fsspec about a URL; errors of its drivers become errors that name the URL."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

CHUNK = 4 * 2**20
DRIVERS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
# The names that drivers have for a property that changes with a file's content.
VERSION_FIELDS = (
    *("ETag", "etag", "Content-MD5", "content_md5", "Digest", "md5Hash", "crc32c", "checksum", "sha", "hex", "blob_id"),
    *("generation", "VersionId", "Last-Modified", "LastModified", "last_modified", "updated", "mtime", "modify"),
    *("modified", "modificationTime", "created"),
)


class Remote(NamedTuple):
    """A file as its server describes it.

    Args:
        url: the address.
        fs: fsspec's file system.
        path: the path in it.
        size: in bytes; None if the server does not state it.
        validator: what tells this version from others, by the drivers' names; may be empty.
    """

    url: str
    fs: Any
    path: str
    size: int | None
    validator: dict[str, str]

    def version(self) -> dict:
        """What a JSON file beside a copy states of the version."""
        return {"url": self.url, "size": self.size, "validator": self.validator}


def filesystem(url: str, storage_options: dict | None) -> tuple[Any, str]:
    """The file system of fsspec for a URL, and the path in it. Earlier listings are forgotten.

    Raises:
        ImportError: fsspec or the driver is not installed.
        ValueError: the protocol is unknown, or there are several.
    """
    try:
        import fsspec
    except ImportError:
        raise ImportError(f'shard {url}: URLs need fsspec: pip install "xmae_fast[remote]"') from None
    protocol, options = url.partition("://")[0], dict(storage_options or {})
    if "::" in url:
        raise ValueError(f"url: expected one protocol, without '::', got {url!r}")
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError:
        raise ValueError(f"url: expected a protocol that fsspec knows, got {protocol!r} in {url!r}") from None
    except ImportError as error:
        install = f": pip install {DRIVERS[protocol]}" if protocol in DRIVERS else ""
        raise ImportError(f"shard {url}: protocol {protocol!r} has no driver here ({error}){install}") from error
    if is_http(url):
        import aiohttp

        # By default aiohttp ends every transfer after five minutes, even one that makes progress.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=60)
        options["client_kwargs"] = {"timeout": timeout, **options.get("client_kwargs", {})}
    with naming_errors(url, passing=(ImportError, TypeError, ValueError)):
        fs, path = fsspec.core.url_to_fs(url, **options)
        fs.invalidate_cache()
    return fs, path


def ask(url: str, storage_options: dict | None) -> Remote:
    """Ask the server about a file.

    Raises:
        OSError: the server does not answer or refuses, or `url` is a folder.
    """
    fs, path = filesystem(url, storage_options)
    with naming_errors(url):
        info = fs.info(path)
    if info.get("type") == "directory":
        raise IsADirectoryError(f"shard {url}: expected an HDF5 file, found a folder")
    validator = {field: str(info[field]) for field in VERSION_FIELDS if info.get(field) is not None}
    if not validator:
        with suppress(Exception):
            validator = {"ukey": str(fs.ukey(path))}
    return Remote(url, fs, path, info.get("size"), validator)


def chunks(remote: Remote, start: int) -> Iterator[tuple[int, bytes]]:
    """Read a remote file in chunks.

    Args:
        remote: the file.
        start: the byte to begin with; if the server cannot begin in the middle, the chunks begin at 0.

    Yields:
        The position of a chunk in the file, and its bytes.
    """
    position = start
    # Over HTTP a block size of 0 asks for the whole file at once, which servers without ranges understand too.
    block_size = CHUNK if start or not is_http(remote.url) else 0
    try:
        with remote.fs.open(remote.path, "rb", block_size=block_size) as stream:
            if start:
                stream.seek(start)
            while chunk := stream.read(CHUNK):
                yield position, chunk
                position += len(chunk)
        return
    except Exception as error:
        if not (position == start > 0 and isinstance(error, (ValueError, NotImplementedError))):
            with naming_errors(remote.url, f"expected {remote.size or 'all'} bytes, received {position}"):
                raise
    yield from chunks(remote, 0)


@contextmanager
def naming_errors(url: str, what: str = "expected an answer of its server, got an error", passing: tuple = ()):
    """Turn errors of drivers into OSErrors that name the URL.

    Args:
        url: the address.
        what: says in the message what was expected and what happened.
        passing: kinds of errors that are not changed.
    """
    try:
        yield
    except passing:
        raise
    except Exception as error:
        # fsspec says "not found" even if a web server is down.
        cause = (is_http(url) and isinstance(error, FileNotFoundError) and error.__cause__) or error
        status = getattr(cause, "status", None)
        if isinstance(cause, FileNotFoundError) or status in (404, 410):
            raise FileNotFoundError(f"shard {url}: expected an HDF5 file, found nothing") from error
        kind = PermissionError if isinstance(cause, PermissionError) or status in (401, 403, 407) else OSError
        raise kind(f"shard {url}: {what} ({type(cause).__name__}: {cause})") from error


def is_local(url: str) -> bool:
    """Whether a URL names a file of this machine."""
    return url.startswith(("file://", "local://"))


def is_http(url: str) -> bool:
    """Whether a URL is one of HTTP or HTTPS."""
    return url.startswith(("http://", "https://"))


def basename(path: str) -> str:
    """The last part of a path or URL; over HTTP without what follows a "?"."""
    return (path.partition("?")[0] if is_http(path) else path).rpartition("/")[2]


def existing_file(path: str) -> str:
    """`path`; FileNotFoundError if there is no file."""
    if not os.path.isfile(path):
        found = "a folder" if os.path.isdir(path) else "nothing"
        raise FileNotFoundError(f"shard {path}: expected an HDF5 file, found {found}")
    return path
