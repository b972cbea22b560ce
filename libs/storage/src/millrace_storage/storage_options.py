from pathlib import Path
from typing import Protocol


class StorageOptions(Protocol):
    """What is to be known to open object stores; the settings of a service are such."""

    @property
    def storage_provider(self) -> str:
        """Where new files are kept: "local" or "s3"."""
        ...

    @property
    def data_dir(self) -> Path:
        """The folder for what is kept on this machine."""
        ...

    @property
    def files_url(self) -> str | None:
        """The URL under which clients reach the presigned content of the local store."""
        ...

    @property
    def s3_bucket(self) -> str | None:
        """The bucket of new objects; None: there is no S3."""
        ...

    @property
    def s3_endpoint(self) -> str | None:
        """The URL of the server; None: AWS."""
        ...

    @property
    def s3_public_endpoint(self) -> str | None:
        """The same for presigned URLs; None: `s3_endpoint`."""
        ...

    @property
    def s3_region(self) -> str | None:
        """The region; None: as AWS's own settings say."""
        ...

    @property
    def s3_prefix(self) -> str:
        """What the keys of new objects begin with."""
        ...

    @property
    def s3_path_style(self) -> bool | None:
        """Whether the bucket stands in the path; None: with an endpoint of its own."""
        ...

    @property
    def s3_pool_size(self) -> int:
        """Connections at most."""
        ...

    @property
    def s3_connect_seconds(self) -> float:
        """How long a connection may take."""
        ...

    @property
    def s3_read_seconds(self) -> float:
        """How long a request may go unanswered by a server that gives signs of life."""
        ...

    @property
    def s3_attempts(self) -> int:
        """How often a request is made before it has failed."""
        ...
