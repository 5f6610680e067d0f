"""What vectors and labels in an AnnData say of their origin: ``uns["scmf"][key]``.

Lives here: the record. Lives elsewhere: writing it into a file (data.stores.adata_added) or an AnnData
(data.stores.adata_memory).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scmf.core import manifest, provenance
from scmf.core.files import sha256_file, sha256_json
from scmf.models.published.names import FoundModel
from scmf.models.run_folder import RunFolder


def made_by(found: FoundModel, **settings: Any) -> dict[str, Any]:
    """The model by name and by checksum, the version of scmf, and the settings that decide the result."""
    return {
        "model": found.word, "model_sha256": model_digest(found.folder), "version": provenance.version(), **settings,
    }  # fmt: skip


def model_digest(model: Path) -> str:
    """Checksum of the weights and all that is saved with them."""
    folder = RunFolder.weights_in(model)
    held = manifest.read(folder)
    if held is not None:
        return sha256_json(held["files"])
    return sha256_json({path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file()})
