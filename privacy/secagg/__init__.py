# SPDX-License-Identifier: Apache-2.0
"""Secure aggregation: the platform learns one sum of a round and nothing else of an honest merchant's vector.

Specification, arguments and gaps: docs/secure-aggregation.md. Start reading at `merchant.py` and `platform.py`;
both are machines without sockets, files or clocks. `exchange.py` shows the order of calls.
"""
