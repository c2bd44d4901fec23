# SPDX-License-Identifier: Apache-2.0
"""Real-time recommendations at the merchant, beside the shop.

The way of a request: `asgi` (bytes, limits, problems) → `messages` (typed request) → `app` (routes) →
`service` (what lives as long as the process) → `recommend` (history, filters, scorer, reasons) → answer.
The way of an event: `app` → `commit` (group commit) → `event_log` (durable) → `window` (hot, bounded).

Imports `releases` only, and neither torch nor flwr nor opacus nor polars.
"""
