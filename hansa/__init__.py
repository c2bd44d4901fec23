# SPDX-License-Identifier: Apache-2.0
"""The launcher: the one name that a wheel puts on the path."""
