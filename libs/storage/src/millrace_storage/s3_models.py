"""The descriptions of AWS's services, from which the library makes its clients."""

import gzip
import json
from pathlib import Path
from typing import Any

from botocore.loaders import JSONFileLoader


class CompactModelLoader(JSONFileLoader):
    """Reads descriptions into plain dictionaries: they stay for good, and in the library's ordered ones take 4 MB more."""

    def load_file(self, file_path: str) -> Any:
        """Return what a file describes, which is named without its ending, or None when there is no such file."""
        plain = Path(f"{file_path}.json")
        if plain.is_file():
            return json.loads(plain.read_bytes())
        packed = Path(f"{file_path}.json.gz")
        if packed.is_file():
            return json.loads(gzip.decompress(packed.read_bytes()))
        return None
