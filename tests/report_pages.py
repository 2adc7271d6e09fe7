"""What the tests of all report pages share: their elements, players that play, and the comparison of pictures."""

import io
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imread

BLOCK = 8
"""Width and height in pixels of the blocks whose means are compared."""
TOLERANCE = 4.0
"""Largest difference of a block's mean, of 255. Measured: 0.0 on a machine with other fonts and other hinting; 7.9 for
a finding's edge of 3.2 instead of 4.8 pixels, 15 for a bar colour one step of 16 lighter, 26 for a gap of 14.4 instead
of 12.8 pixels between the plots, 25 without the lines between samples. A change that moves the end of the page changes
the picture's size."""
PLAY = """(async () => {
  for (const closed of document.querySelectorAll("details")) closed.open = true;
  const failed = [];
  for (const player of document.querySelectorAll("audio")) {
    try {
      await player.play();
      const start = player.currentTime, deadline = performance.now() + 5000;
      while (player.currentTime <= start && performance.now() < deadline) await new Promise(r => setTimeout(r, 20));
      if (player.currentTime <= start || player.readyState < 2) throw Error(`stands at ${player.currentTime}`);
    } catch (error) { failed.push(`${player.src.slice(0, 200)}: ${error}`); }
    player.pause();
  }
  return failed;
})()"""
TOO_WIDE = """[...document.body.querySelectorAll("*")]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5 && !e.closest(".skip, .wide > *"))
  .map(e => e.outerHTML.slice(0, 200))"""
"""The elements that stick out of the window on the right, but for those inside a part that scrolls by itself."""


class Elements(HTMLParser):
    """The elements of a page.

    Attributes:
        tags: name -> number of elements.
        found: (name, attributes) of each element.
        text: the text between the elements.
    """

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def sources(self) -> list[str]:
        return [attributes["src"] for tag, attributes in self.found if tag == "audio"]


def difference(one: bytes, other: bytes) -> float:
    """Return the largest difference of block means, from 0 to 255; infinite for pictures of different sizes."""
    first, second = blocks(one), blocks(other)
    return float(np.abs(first - second).max()) if first.shape == second.shape else float("inf")


def blocks(png: bytes) -> np.ndarray[Any, Any]:
    """Return (rows, columns, 3) means of blocks, from 0 to 255, without partial blocks at the right and the bottom."""
    pixels = 255.0 * imread(io.BytesIO(png), format="png")[..., :3]
    rows, columns = pixels.shape[0] // BLOCK, pixels.shape[1] // BLOCK
    cut = pixels[: rows * BLOCK, : columns * BLOCK]
    return cut.reshape(rows, BLOCK, columns, BLOCK, 3).mean(axis=(1, 3))
