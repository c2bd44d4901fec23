# SPDX-License-Identifier: Apache-2.0
"""The merchant's own parts of the model, fitted to its own data and kept in its home: `local.safetensors`.

They join the active release at serving time and never leave the house.

Guarantees:
- The file appears whole or not at all, and only its owner can read it.
- The same release and events give the same numbers.
"""

from hashlib import sha256

from safetensors.numpy import load, save

from client.choice import Choice, choose, fit_chosen
from client.home import Home, write_private
from client.runtime import Runtime
from data.files import load_merchant
from data.samples import evaluation_set, histories
from models.parameters import arrays_of, load_public
from releases.catalogue import catalogue_digest
from releases.installed import active

FILE = "local.safetensors"


def fit_local_part(home: Home, runtime: Runtime) -> tuple[int, Choice]:
    """Fit the local parts beside the home's active release and write them; the release's version, and the choice.

    Raises:
        releases.errors.ReleaseError: no release is active, or it does not verify.
        models.errors.ParameterMismatch: the release is of another model than `runtime.json` says.
        data.errors.DataError: the events are not usable.
    """
    release, settings, vocabulary = active(home.path), home.settings, runtime.vocabulary
    weights = release.read("model.safetensors")
    load_public(runtime.model, runtime.spec, load(weights))
    events, most = load_merchant(home.events), settings.max_events
    before, now = (
        histories(events, vocabulary, until=until, max_events=most)
        for until in (settings.train_until, settings.gate_until)
    )
    weeks = evaluation_set(events, vocabulary, cut=settings.train_until, end=settings.gate_until, max_events=most)
    choice = choose(runtime, before, weeks)
    fit_chosen(runtime, now, choice)
    metadata = {
        "catalogue_digest": catalogue_digest(vocabulary.item_ids),
        "model_digest": sha256(weights).hexdigest(),
    }
    write_private(home.path / FILE, save(arrays_of(runtime.model, runtime.spec.local), metadata), durable=True)
    return release.version, choice
