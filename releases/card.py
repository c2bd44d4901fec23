# SPDX-License-Identifier: Apache-2.0
"""The model card: what a release is, in typed fields for programs and in words for people.

`card.json` is the truth; `README.md` is written from it once, at publishing. Unknown fields, wrong types,
NaN and times without a zone are refused, never ignored. Follows Mitchell et al. 2019, "Model Cards for
Model Reporting", section 4, as far as a program can fill it in.

Guarantees:
- A card survives the JSON round trip.
- A card with an unknown or wrong field is refused.
"""

import dataclasses
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from releases.errors import ContentError

FORMAT_VERSION: Final = 1
MAX_TEXT_LENGTH: Final = 4000
_HEX = re.compile(r"[0-9a-f]{16,64}")
# Control and line-breaking characters, those that reverse the direction of text, and what is no character.
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff]"
)

Mode = Literal["none", "local", "distributed", "merchant"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured figure with its interval: `low <= mean <= high`; a view is `all` or `novel` or a task's own."""

    view: str
    name: str
    mean: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.mean <= self.high:
            raise ValueError(
                f"metric {self.view}/{self.name}: need low <= mean <= high, found "
                f"{self.low}, {self.mean}, {self.high}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a release is. `release_version` 0 and `model_hash` "" stand for "filled in by publishing".

    `created` has a time zone; `epsilon` and `delta` are None exactly in mode "none"; `model_hash` is the SHA-256
    of the bytes of `model.safetensors`, `config_hash` and `code_hash` are lower-case hexadecimal (16 to 64).
    Raises ValueError where a field is out of its range.
    """

    created: datetime
    league: str
    data_licence: str
    task: str
    mode: Mode
    unit: str
    epsilon: float | None
    delta: float | None
    accountant: str
    privacy_statement: str
    rounds: int
    merchants: int
    items: int
    config_hash: str
    code_hash: str
    metrics: tuple[Metric, ...] = ()
    limitations: tuple[str, ...] = ()
    release_version: int = 0
    model_hash: str = ""
    format_version: int = field(default=FORMAT_VERSION)

    def __post_init__(self) -> None:
        _check_header(self)
        _check_privacy(self)
        for name in ("rounds", "merchants", "items", "release_version"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        for name in ("config_hash", "code_hash", "model_hash"):
            value = getattr(self, name)
            if not (_HEX.fullmatch(value) or (name == "model_hash" and value == "")):
                raise ValueError(f"{name}: expected 16 to 64 lower-case hexadecimal digits, found {value!r}")
        texts = [value for value in dataclasses.astuple(self) if isinstance(value, str)]
        for text in (*texts, *self.limitations):
            if len(text) > MAX_TEXT_LENGTH or _CONTROL.search(text):
                raise ValueError(
                    f"text: expected at most {MAX_TEXT_LENGTH} characters without control "
                    f"characters, found {text[:40]!r}"
                )

    def to_json(self) -> bytes:
        """The card as canonical (sorted, indented) UTF-8 JSON."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> "ModelCard":
        """Read a card; raises ContentError that names the field."""
        try:
            raw = msgspec.json.decode(data)
            known = {entry.name for entry in dataclasses.fields(cls)}
            if not isinstance(raw, dict):
                raise ContentError("card.json: expected a JSON object. Do not install this release.")
            if raw.get("format_version") != FORMAT_VERSION:
                raise ContentError(
                    f"card.json: expected format version {FORMAT_VERSION}, found "
                    f"{raw.get('format_version')!r}. Upgrade Hansa to read this release."
                )
            if unknown := sorted(set(raw) - known):
                raise ContentError(f"card.json: unknown field {unknown[0]!r}. Upgrade Hansa or refuse it.")
            return msgspec.convert(raw, cls)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ContentError(f"card.json: {error}. Do not install this release.") from error

    def readme(self) -> str:
        """The card for people: YAML front matter (each value in JSON syntax, which is YAML) and Markdown."""
        front = {
            "license": self.data_licence, "library_name": "hansa", "task": self.task, "league": self.league,
            "version": self.release_version, "created": self.created.astimezone(UTC).isoformat(),
            "privacy_mode": self.mode, "privacy_unit": self.unit, "epsilon": self.epsilon, "delta": self.delta,
            "model_sha256": self.model_hash,
        }  # fmt: skip
        lines = [
            "---",
            *(f"{key}: {_yaml(value)}" for key, value in front.items()),
            "---",
            "",
        ]
        lines += [f"# {self.league}, {self.task}, release {self.release_version}", ""]
        lines += [f"Trained in {self.rounds} rounds by {self.merchants} merchants on {self.items} items.", ""]
        lines += ["## Privacy", "", *_privacy_words(self), ""]
        lines += ["## Measured", "", *_metric_table(self.metrics), ""]
        if self.limitations:
            lines += ["## Limitations", "", *(f"- {text}" for text in self.limitations), ""]
        lines += ["## Origin", "", f"Configuration `{self.config_hash}`, code `{self.code_hash}`, "
                  f"model `{self.model_hash}`.", ""]  # fmt: skip
        return "\n".join(lines)


def _yaml(value: object) -> str:
    """A value as JSON, which is YAML; `1e-05` as `1.0e-05`, since YAML 1.1 reads a number only with a point."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub(r"^(-?\d+)e", r"\1.0e", text) if isinstance(value, float) else text


def _check_header(card: ModelCard) -> None:
    if card.format_version != FORMAT_VERSION:
        raise ValueError(f"format_version: expected {FORMAT_VERSION}, found {card.format_version}")
    if card.created.tzinfo is None:
        raise ValueError("created: expected a time with a time zone, found one without")
    for name in ("league", "data_licence", "task", "unit", "accountant", "privacy_statement"):
        if not getattr(card, name).strip():
            raise ValueError(f"{name}: expected words, found none")


def _check_privacy(card: ModelCard) -> None:
    if card.mode == "none":
        if card.epsilon is not None or card.delta is not None:
            raise ValueError("epsilon, delta: expected null in mode 'none', found a number")
        return
    if card.epsilon is None or not 0 < card.epsilon < float("inf"):
        raise ValueError(f"epsilon: expected a positive number in mode {card.mode!r}, found {card.epsilon}")
    if card.delta is None or not 0 < card.delta < 1:
        raise ValueError(f"delta: expected a number between 0 and 1, found {card.delta}")


def _privacy_words(card: ModelCard) -> list[str]:
    if card.mode == "none":
        return ["Trained **without** differential privacy.", "", card.privacy_statement]
    spent = f"Spent: ε = {card.epsilon:g}, δ = {card.delta:g} per {card.unit}, mode `{card.mode}`, "
    return [f"{spent}accountant `{card.accountant}`.", "", card.privacy_statement]


def _metric_table(metrics: tuple[Metric, ...]) -> list[str]:
    if not metrics:
        return ["No figures were recorded."]
    rows = [f"| {m.view} | {m.name} | {m.mean:.4f} | {m.low:.4f} to {m.high:.4f} |" for m in metrics]
    return ["| view | metric | mean | interval |", "|---|---|---|---|", *rows]
