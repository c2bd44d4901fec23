# SPDX-License-Identifier: Apache-2.0
"""The merchant's own parts of the model, fitted to its own data and kept in its home: `local.safetensors`.

They join the league's release at serving time and never leave the house.
"""

import os
from pathlib import Path

from safetensors.numpy import save

from client.runtime import Runtime
from client.wire import Array
from data.samples import UserHistories
from models.parameters import arrays_of, load_public
from releases.catalogue import catalogue_digest

FILE = "local.safetensors"


def write_local_part(home: Path, runtime: Runtime, own: UserHistories, public: dict[str, Array]) -> Path:
    """Fit the local parts beside the league's model `public` and write them; the file appears whole or not."""
    load_public(runtime.model, runtime.spec, public)
    runtime.task.fit_local(runtime.model, own)
    final = home / FILE
    temporary = final.with_name(FILE + ".tmp")
    with temporary.open("wb") as file:
        digest = catalogue_digest(runtime.vocabulary.item_ids)
        file.write(save(arrays_of(runtime.model, runtime.spec.local), {"catalogue_digest": digest}))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(final)
    return final
