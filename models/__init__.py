# SPDX-License-Identifier: Apache-2.0
"""The shared models in plain torch: tasks, towers, objective, metrics, baselines, export.

`task` holds the seam that client, privacy and server work against; `recommendation` is the first task behind
it. Nothing here knows where histories come from (they are structural types), nor Flower, Opacus or files.
"""
