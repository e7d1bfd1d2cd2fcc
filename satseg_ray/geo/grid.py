"""Integer geometry: windows, the scene-wide patch lattice, and the grid of tile cores.

Nothing here touches a pixel. The lattice belongs to the scene and not to a tile, which is why the
mosaic does not depend on how the scene is tiled (``docs/adr/0001-tile-with-halo.md``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from satseg_ray.errors import ConfigError


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of whole pixels: first row and column, height and width.

    >>> Window(0, 0, 4, 4).intersection(Window(2, 3, 4, 4))
    Window(row=2, col=3, height=2, width=1)
    """

    row: int
    col: int
    height: int
    width: int

    @property
    def row_stop(self) -> int:
        """The first row below the window."""
        return self.row + self.height

    @property
    def col_stop(self) -> int:
        """The first column right of the window."""
        return self.col + self.width

    @property
    def area(self) -> int:
        """The number of pixels."""
        return self.height * self.width

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, as the shape of an array."""
        return self.height, self.width

    def intersection(self, other: Window) -> Window:
        """Return the pixels common to both; a window of no area where there are none."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        height = max(0, min(self.row_stop, other.row_stop) - row)
        width = max(0, min(self.col_stop, other.col_stop) - col)
        return Window(row, col, height, width)

    def overlaps(self, other: Window) -> bool:
        """Tell whether both share a pixel."""
        return self.intersection(other).area > 0

    def grown(self, margin: int) -> Window:
        """Return the window with ``margin`` more pixels on each side."""
        return Window(
            self.row - margin, self.col - margin, self.height + 2 * margin, self.width + 2 * margin
        )

    def blocks(self, height: int = 512, width: int = 4096) -> Iterator[Window]:
        """Yield the window in blocks of at most ``height`` x ``width`` pixels, in row-major order.

        Law: the blocks partition the window, and their size does not grow with it.
        """
        for row in range(self.row, self.row_stop, height):
            for col in range(self.col, self.col_stop, width):
                block = Window(row, col, height, width)
                yield block.intersection(self)

    def relative_to(self, origin: Window) -> Window:
        """Return the same pixels counted from the first pixel of ``origin``."""
        return Window(self.row - origin.row, self.col - origin.col, self.height, self.width)

    def slices(self) -> tuple[slice, slice]:
        """Return the row and the column slice that cut the window from an array."""
        return slice(self.row, self.row_stop), slice(self.col, self.col_stop)


@dataclass(frozen=True)
class Axis:
    """Patch positions on one axis: starts at ``k * stride`` until the length is covered.

    The last patch may overhang. Laws: every pixel is in a patch; positions depend on the length,
    the patch and the stride alone.

    >>> [Axis(1000, 512, 384).start(k) for k in range(Axis(1000, 512, 384).count)]
    [0, 384, 768]
    """

    length: int
    patch: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.patch:
            raise ConfigError(
                "stride",
                f"is {self.stride} with patches of {self.patch} pixels",
                f"Use 1 to {self.patch}, so that no pixel lies between patches.",
            )

    @property
    def count(self) -> int:
        """The number of patches."""
        return max(0, -(-(self.length - self.patch) // self.stride)) + 1

    def start(self, index: int) -> int:
        """Return the first pixel of patch ``index``."""
        return index * self.stride

    def covering(self, start: int, stop: int) -> range:
        """Return the indexes of every patch that has a pixel in ``start .. stop - 1``."""
        first = max(0, -(-(start - self.patch + 1) // self.stride))
        last = min(self.count - 1, (stop - 1) // self.stride)
        return range(first, last + 1)


@dataclass(frozen=True)
class PatchBlock:
    """The lattice patches that one core needs: a range of lattice rows and one of columns."""

    rows: range
    cols: range

    @property
    def count(self) -> int:
        """The number of patches."""
        return len(self.rows) * len(self.cols)


@dataclass(frozen=True)
class Lattice:
    """The patches of a whole scene, in row-major order."""

    rows: Axis
    cols: Axis

    @classmethod
    def of(cls, height: int, width: int, patch: int, stride: int) -> Lattice:
        """Return the lattice of a scene of ``height`` x ``width`` pixels."""
        return cls(Axis(height, patch, stride), Axis(width, patch, stride))

    @property
    def patch(self) -> int:
        """The side of a patch in pixels."""
        return self.rows.patch

    @property
    def count(self) -> int:
        """The number of patches."""
        return self.rows.count * self.cols.count

    def window(self, row: int, col: int) -> Window:
        """Return the pixels of the patch at lattice position (``row``, ``col``)."""
        return Window(self.rows.start(row), self.cols.start(col), self.patch, self.patch)

    def windows(self) -> Iterator[Window]:
        """Yield the windows of all patches in row-major order."""
        for row in range(self.rows.count):
            for col in range(self.cols.count):
                yield self.window(row, col)

    def covering(self, core: Window) -> PatchBlock:
        """Return every patch that has a pixel in ``core``."""
        return PatchBlock(
            self.rows.covering(core.row, core.row_stop),
            self.cols.covering(core.col, core.col_stop),
        )

    def bounds(self, block: PatchBlock) -> Window:
        """Return the bounding box of a block's patches: core plus halo, maybe beyond the scene."""
        row, col = self.rows.start(block.rows[0]), self.cols.start(block.cols[0])
        height = self.rows.start(block.rows[-1]) + self.patch - row
        width = self.cols.start(block.cols[-1]) + self.patch - col
        return Window(row, col, height, width)


@dataclass(frozen=True)
class TileGrid:
    """The partition of a scene into cores of ``core_height`` x ``core_width`` pixels.

    >>> TileGrid(10, 7, 6, 4).cores[-1]
    Window(row=6, col=4, height=4, width=3)
    """

    height: int
    width: int
    core_height: int
    core_width: int

    @property
    def count(self) -> int:
        """The number of tiles."""
        return -(-self.height // self.core_height) * -(-self.width // self.core_width)

    @cached_property
    def cores(self) -> tuple[Window, ...]:
        """The cores in row-major order; those at the end are cut at the scene's edge."""
        scene = Window(0, 0, self.height, self.width)
        return tuple(scene.blocks(self.core_height, self.core_width))


CORE_MULTIPLE = 512
"""Cores are multiples of the COG block, so that no block is written by two workers."""


@dataclass(frozen=True)
class CoreLimits:
    """What a core may be: its most pixels, and its widest in pixels; 512 x 512 always may be."""

    pixels: int
    width: int

    def allow(self, height: int, width: int) -> bool:
        """Tell whether a core may be of this size, multiples of 512."""
        return height * width <= max(self.pixels, CORE_MULTIPLE**2) and width <= max(
            self.width, CORE_MULTIPLE
        )


def plan_cores(lattice: Lattice, limits: CoreLimits, at_least: int = 1) -> TileGrid:
    """Return the grid whose cores, within ``limits``, waste the fewest patches.

    The cores are multiples of 512 and may be strips. Where the scene allows it there are
    ``at_least`` tiles, and tiles come out in nearly equal numbers of rows and columns. The choice
    changes the cost and never a pixel.
    """
    height, width = lattice.rows.length, lattice.cols.length
    grids = [
        TileGrid(height, width, core_height, core_width)
        for core_height in _even_cores(height)
        for core_width in _even_cores(width)
        if limits.allow(core_height, core_width)
    ]
    most = max(grid.count for grid in grids)
    enough = [grid for grid in grids if grid.count >= min(at_least, most)]
    return min(enough, key=lambda grid: (computed_patches(lattice, grid), grid.count))


def computed_patches(lattice: Lattice, grid: TileGrid) -> int:
    """Return how many patches all tiles compute together, those computed twice counted twice."""
    rows = range(0, grid.height, grid.core_height)
    cols = range(0, grid.width, grid.core_width)
    per_row = sum(
        len(lattice.rows.covering(r, min(r + grid.core_height, grid.height))) for r in rows
    )
    per_col = sum(len(lattice.cols.covering(c, min(c + grid.core_width, grid.width))) for c in cols)
    return per_row * per_col


def _even_cores(length: int) -> list[int]:
    """Return the core sizes that cut ``length`` into 1, 2, 3 ... nearly equal parts."""
    units = -(-length // CORE_MULTIPLE)
    return sorted({-(-units // parts) * CORE_MULTIPLE for parts in range(1, units + 1)})
