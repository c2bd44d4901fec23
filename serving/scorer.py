# SPDX-License-Identifier: Apache-2.0
"""The release's scorer on ONNX Runtime: one thread, no spinning, so that it shares a machine politely.

Legend: B requests, L history length, V items (place 0 is padding), k items asked for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from serving.errors import LocalPartUnusable, ReleaseUnusable

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

INPUTS = {
    "history": "tensor(int64)",
    "age_days": "tensor(float)",
    "merchant_log_popularity": "tensor(float)",
    "mask": "tensor(float)",
    "k": "tensor(int64)",
}
ITEM_VECTORS = "item_vectors"
OUTPUTS = {"items": "tensor(int64)", "scores": "tensor(float)"}


class Scorer:
    """Ranks the whole catalogue for a batch of histories. `model` is the bytes of an ONNX file.

    `item_vectors` float32 [V+1, d]: the merchant's, in the place of the release's; None leaves those.

    Raises:
        ReleaseUnusable: no ONNX model, or its inputs and outputs are not those of the contract.
        LocalPartUnusable: the model's item vectors can't be replaced.
    """

    def __init__(self, model: bytes, item_vectors: Floats | None = None) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = 4
        if item_vectors is not None:
            # ONNX Runtime reads this memory for as long as the session lives.
            self._item_vectors = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(item_vectors))
            options.add_initializer(ITEM_VECTORS, self._item_vectors)
        try:
            # From bytes: a model that points at files outside itself is refused.
            self._session = ort.InferenceSession(model, options, ["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common base but Exception
            raise ReleaseUnusable(
                f"scorer.onnx: expected an ONNX model, found: {error}; pull another release"
            ) from error
        for what, expected, found in (
            ("inputs", INPUTS, {node.name: node.type for node in self._session.get_inputs()}),
            ("outputs", OUTPUTS, {node.name: node.type for node in self._session.get_outputs()}),
        ):
            if found != expected:
                raise ReleaseUnusable(
                    f"scorer.onnx: {what}: expected {expected}, found {found}; pull another release"
                )

        replaceable = self._session.get_modelmeta().custom_metadata_map.get("replaceable")
        if item_vectors is not None and replaceable != ITEM_VECTORS:
            raise LocalPartUnusable(
                f"scorer.onnx: expected replaceable {ITEM_VECTORS!r}, found {replaceable!r}; pull another release"
            )

    def score(
        self, history_BL: Ints, age_days_BL: Floats, popularity_V: Floats, mask_BV: Floats, k: int
    ) -> tuple[Ints, Floats]:
        """The k best items of each row and their scores, best first: int64 [B,k], float32 [B,k].

        `mask_BV` is added to the scores: 0, or -inf for what must not be recommended. k is at most V+1.
        Raises what ONNX Runtime raises.
        """
        items, scores = self._session.run(
            ["items", "scores"],
            {
                "history": history_BL,
                "age_days": age_days_BL,
                "merchant_log_popularity": popularity_V,
                "mask": mask_BV,
                "k": np.asarray(k, dtype=np.int64),
            },
        )
        return items, scores
