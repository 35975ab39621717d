"""The goods of a shop, from a file, as a rule reads them and as questions name them."""

import re
from pathlib import Path
from typing import Any

from sightline.rule_commands import catalogue

_WORD = re.compile(r"\w+")
_ARTICLES = frozenset({"a", "an", "the", "some"})


class Catalogue:
    """Products by their SKU. The file is CSV or JSON: sku, names, link, price, picture."""

    def __init__(self, path: Path) -> None:
        self.products: dict[str, dict[str, Any]] = {each["sku"]: each for each in catalogue(path)}
        self._names = [
            (_words(name) - _ARTICLES, product)
            for product in self.products.values()
            for name in product["names"]
        ]

    def named_in(self, *texts: str, most: int = 3) -> list[dict[str, Any]]:
        """Products whose whole name stands in a text, those of the first text first."""
        found: dict[str, dict[str, Any]] = {}
        for text in texts:
            words = _words(text)
            for name, product in self._names:
                if name <= words:
                    found.setdefault(product["sku"], product)
        return list(found.values())[:most]

    def prices(self, products: list[dict[str, Any]]) -> str:
        """What products cost, in words; "" of none that has a price."""
        priced = [each for each in products if each.get("price")]
        return "; ".join(f"{each['names'][0]}: {each['price']}" for each in priced)

    def told(self, products: list[dict[str, Any]]) -> str:
        """What a model that reads instructions is told of products."""
        lines = [
            f"{product['names'][0]}: {product.get('price', 'price on request')}"
            for product in products
        ]
        return "\n".join(("You sell in a live shop. Prices of the catalogue:", *lines))


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))
