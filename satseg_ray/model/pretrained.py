"""First weights that are not random: those of an encoder, or of a whole model."""

from __future__ import annotations

import os
import socket
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from satseg_ray.errors import ConfigError
from satseg_ray.model.environment import require_legacy_keras
from satseg_ray.model.network import Network, body, build_encoder
from satseg_ray.model.spec import ModelSpec
from satseg_ray.model.store import SPEC, load_network, read_spec

Layers: TypeAlias = Mapping[str, Sequence[NDArray[Any]]]
"""The arrays of each layer, by the layer's name."""

IMAGENET = "imagenet"
PRETRAINED_BANDS = 3
_HOST = "https://github.com"  # has the files of all encoders
_REACH_SECONDS = 10.0
_STALL_SECONDS = 60.0


@dataclass(frozen=True)
class FirstWeights:
    """Where a network's first weights come from; at most one of the two, neither for random ones.

    ``encoder`` is the weights file of a three-band encoder, or a model directory whose encoder is
    taken; ``model`` is a model directory of the same architecture and backbone. Both are absolute
    paths that every worker reaches.
    """

    encoder: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class InputRange:
    """What a normalised band value is scaled by and shifted to, for an encoder's own range."""

    scale: float = 1.0
    offset: float = 0.0


# ImageNet's own mean and deviation are 114.5 and 57.6 of 255, over its three bands
_COUNTS = InputRange(57.6, 114.5)
_CENTRED_COUNTS = InputRange(57.6, 0.0)
_MINUS_ONE_TO_ONE = InputRange(57.6 / 127.5, 114.5 / 127.5 - 1)
_STANDARD = InputRange()


def library_range(backbone: str) -> InputRange:
    """Return the range in which the library's pretrained encoder of that name was trained.

    >>> library_range("efficientnetb0")
    InputRange(scale=1.0, offset=0.0)
    """
    if backbone.startswith("vgg"):
        return _CENTRED_COUNTS
    if backbone.startswith(("mobilenet", "inception")):
        return _MINUS_ONE_TO_ONE
    if backbone.startswith(("resnet", "resnext")) or backbone in ("seresnet18", "seresnet34"):
        return _COUNTS
    return _STANDARD


def band_shares(old: Sequence[str], new: Sequence[str]) -> NDArray[np.float32]:
    """Return the share of each old band's kernel that each new band gets, (new, old).

    A new band takes the old band of its name, else the old ones in turn; an old band that two
    take is divided among them, and one that nobody takes is added to another.

    Law: the shares of an old band add up to 1, so a grey image gives the same features.

    >>> band_shares(("r", "g", "b"), ("1", "2", "3", "4")).tolist()
    [[0.5, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.0, 0.0]]
    """
    shares = np.zeros((len(new), len(old)), np.float32)
    for place, name in enumerate(new):
        shares[place, old.index(name) if name in old else place % len(old)] = 1
    for unused in np.flatnonzero(~shares.any(axis=0)):
        shares[unused % len(new), unused] = 1
    divided: NDArray[np.float32] = shares / shares.sum(axis=0)
    return divided


def set_first_weights(network: Network, spec: ModelSpec, first: FirstWeights) -> None:
    """Give a network of ``spec`` its first weights, in place.

    Layers before and in the first convolution are fitted to the bands of the spec, see
    :func:`band_shares`. The head of a model stays random where the classes are others.

    Raises:
        ConfigError: the file holds no weights of that encoder, or the model is of another kind.
        ModelVersionNotFound: the directory holds no model.
    """
    if first.model:
        _from_model(network, spec, Path(first.model))
    elif first.encoder and Path(first.encoder).is_dir():
        _from_models_encoder(network, spec, Path(first.encoder))
    elif first.encoder:
        layers = encoder_layers(Path(first.encoder), spec.backbone)
        bands = tuple("" for _ in range(PRETRAINED_BANDS))
        _copy(network, layers, band_shares(bands, spec.bands))


def check_source(key: str, source: ModelSpec, spec: ModelSpec) -> None:
    """Refuse a model that cannot give its weights to another one; without TensorFlow.

    ``key`` is the key of the config that names it: of ``encoder_weights`` the backbone alone
    must be the same.

    Raises:
        ConfigError: another backbone or architecture.
    """
    names = ("backbone",) if key == "encoder_weights" else ("architecture", "backbone")
    for name in names:
        theirs, ours = getattr(source, name), getattr(spec, name)
        if theirs != ours:
            raise ConfigError(
                key, f"the model there has the {name} {theirs!r}, not {ours!r}",
                f"Set {name} to {theirs!r}, or name another model.",
            )  # fmt: skip


def encoder_layers(path: Path, backbone: str) -> Layers:
    """Return the layers of an encoder's weights file, HDF5 as Keras writes it.

    Raises:
        ConfigError: the file holds something else.
    """
    encoder = build_encoder(backbone, PRETRAINED_BANDS)
    try:
        encoder.load_weights(str(path))
    except (ValueError, KeyError, OSError, ImportError) as error:
        raise ConfigError(
            "encoder_weights",
            f"{path} holds no weights of a {backbone} of three bands ({_first_line(error)})",
            "Name an encoder's HDF5 file as Keras writes it, or a model directory.",
        ) from error
    return _layers(encoder)


def fetch_imagenet(backbone: str, folder: Path) -> Path:
    """Return the file in ``folder`` with the ImageNet weights of an encoder.

    The library downloads them where the file is not there; a file that the library downloaded
    before serves without a network.

    Raises:
        ConfigError: nobody answers within seconds, or the download breaks off.
    """
    path = folder / f"{backbone}-{IMAGENET}.weights.h5"
    if path.is_file():
        return path
    try:
        encoder = _downloaded(backbone)
    except Exception as error:  # the library raises plain ones for all that goes wrong
        raise ConfigError(
            "encoder_weights",
            f"the ImageNet weights of {backbone} cannot be downloaded ({_first_line(error)})",
            "Set encoder_weights to null, or to the path of a weights file.",
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{os.getpid()}.partial.h5")
    encoder.save_weights(partial)
    partial.replace(path)
    return path


def _downloaded(backbone: str) -> Network:
    """Return the encoder with the weights that the library downloads, or has downloaded before."""
    if not any(folder.is_dir() and any(folder.iterdir()) for folder in _caches()):
        check_answers(_HOST, _REACH_SECONDS)  # at once: before TensorFlow and a build
    require_legacy_keras()
    import tensorflow as tf

    with suppress(RuntimeError):  # the devices are settled already
        tf.config.set_visible_devices([], "GPU")  # they belong to the workers
    with _reachable():
        return build_encoder(backbone, PRETRAINED_BANDS, IMAGENET)


def _caches() -> tuple[Path, Path]:
    """Return the folders in which the library keeps what it downloads."""
    return Path.home() / ".keras" / "models", Path("/tmp/.keras/models")


def _from_model(network: Network, spec: ModelSpec, directory: Path) -> None:
    source = read_spec(directory)
    check_source("init_from", source, spec)
    layers = dict(_layers(body(load_network(directory))))
    if source.classes.names != spec.classes.names:
        del layers[head(body(network)).name]
    _copy(network, layers, band_shares(source.bands, spec.bands))


def _from_models_encoder(network: Network, spec: ModelSpec, directory: Path) -> None:
    source = read_spec(directory)
    check_source("encoder_weights", source, spec)
    layers = _layers(body(load_network(directory)))
    encoder = {layer.name for layer in build_encoder(spec.backbone, len(source.bands)).layers}
    own = {name: arrays for name, arrays in layers.items() if name in encoder}
    _copy(network, own, band_shares(source.bands, spec.bands))


def _copy(network: Network, layers: Layers, shares: NDArray[np.float32]) -> None:
    """Set the weights of all layers that both have; those that see bands are fitted to them."""
    inner = body(network)
    facing = {layer.name for layer in stem(inner)}
    for layer in inner.layers:
        if layer.weights and layer.name in layers:
            arrays = layers[layer.name]
            layer.set_weights(_fitted(arrays, shares) if layer.name in facing else arrays)


def _fitted(arrays: Sequence[NDArray[Any]], shares: NDArray[np.float32]) -> list[NDArray[Any]]:
    """Return the arrays of a layer that sees bands, for other bands.

    A convolution's are the kernel (rows, columns, bands, filters) and perhaps a bias; those of a
    normalisation have one value a band.
    """
    if arrays[0].ndim == 4:
        return [np.einsum("nb,hwbf->hwnf", shares, arrays[0]), *arrays[1:]]
    return [shares / shares.sum(axis=1, keepdims=True) @ array for array in arrays]


def stem(network: Network) -> Iterator[Any]:
    """Yield the layers of an encoder that see bands: those up to the first convolution."""
    import tensorflow as tf

    for layer in network.layers:
        yield layer
        if isinstance(layer, tf.keras.layers.Conv2D):
            return


def head(network: Network) -> Any:
    """Return the layer of a network's body that gives the logits of the classes."""
    return [layer for layer in network.layers if layer.weights][-1]


def _layers(network: Network) -> Layers:
    return {layer.name: layer.get_weights() for layer in network.layers if layer.weights}


@contextmanager
def _reachable() -> Iterator[None]:
    """Have the library ask whether a server answers before it downloads; its wait has no end."""
    import tensorflow as tf

    download = tf.keras.utils.get_file
    before = socket.getdefaulttimeout()

    def get_file(fname: str, origin: str, *args: Any, **kwargs: Any) -> Any:
        if not any((folder / fname).is_file() for folder in _caches()):
            check_answers(origin, _REACH_SECONDS)
        return download(fname, origin, *args, **kwargs)

    socket.setdefaulttimeout(_STALL_SECONDS)
    try:
        tf.keras.utils.get_file = get_file
        yield
    finally:
        tf.keras.utils.get_file = download
        socket.setdefaulttimeout(before)


def check_answers(address: str, seconds: float) -> None:
    """Refuse an address whose server does not answer in time, whatever it is that hangs.

    Raises:
        OSError: no answer, or an error.
    """
    failure: list[OSError] = [TimeoutError(f"no answer in {seconds:g} s from {address}")]

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=seconds).close()
            failure.clear()
        except OSError as error:  # URLError is one
            failure[0] = error

    asking = threading.Thread(target=ask, daemon=True)  # a name server's silence has no timeout
    asking.start()
    asking.join(seconds)
    if failure:
        raise failure[0]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def is_model(path: Path) -> bool:
    """Tell whether a path is a model directory."""
    return (path / SPEC).is_file()
