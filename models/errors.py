# SPDX-License-Identifier: Apache-2.0
"""Everything that can be wrong with a model, as one tree.

ModelError               whatever this room refuses
├── ParameterMismatch    arrays that do not fit the model: names, shapes, types, values that are not finite
├── ConfigError          a setting outside its range, or settings that contradict each other
└── ExportError          an exported scorer that does not answer as the model does

Each message says what was expected, what was found and what to do. None quotes a user's data.
"""

__all__ = ["ConfigError", "ExportError", "ModelError", "ParameterMismatch"]


class ModelError(Exception):
    """Something that this room refuses."""


class ParameterMismatch(ModelError, ValueError):
    """Arrays that do not fit the model they are for."""


class ConfigError(ModelError, ValueError):
    """A setting that makes no model."""


class ExportError(ModelError, RuntimeError):
    """An exported scorer that must not be released."""
