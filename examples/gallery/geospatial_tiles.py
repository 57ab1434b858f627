"""Geospatial tiles: compute slopes tile by tile; each tile is processed on the node that has read it."""

import numpy as np

import handoff_dask as handoff
from handoff_dask import DAG, Collocated, Function

SIZE, TILE = 512, 128  # pixels of 30 m
TILES = [(row, column) for row in range(0, SIZE, TILE) for column in range(0, SIZE, TILE)]


def read(row, column):
    """Return the elevations of a tile with a border of one pixel; a real program reads them from a file."""
    y, x = np.mgrid[row - 1 : row + TILE + 1, column - 1 : column + TILE + 1] / SIZE
    return 800 + 400 * np.sin(5 * x) * np.cos(4 * y)


def slope(elevations):
    """Return the slope of each pixel in degrees, without the border."""
    return np.degrees(np.arctan(np.hypot(*np.gradient(elevations, 30.0))))[1:-1, 1:-1]


def mosaic(*slopes):
    across = SIZE // TILE
    return np.vstack([np.hstack(slopes[n : n + across]) for n in range(0, len(slopes), across)])


dag = DAG("slopes")
for tile in TILES:
    dag.add_function(Function(("read", tile), read, extra_args=tile, cost={"disk": 1}))
    dag.add_function(
        Function(tile, slope, [("read", tile)], cost={"cpu": 1}, node=Collocated(("read", tile)))
    )
dag.add_function(Function("mosaic", mosaic, TILES, cost={"cpu": 1, "memory": 4000}))

nodes = {"west": {"cpu": 2, "memory": 2048, "disk": 1}, "east": {"cpu": 4, "memory": 8192, "disk": 2}}
with handoff.local_cluster(nodes, processes=False) as cluster:
    slopes = handoff.execute(dag, cluster, keep=["mosaic"])["mosaic"]
print(f"{len(TILES)} tiles, {slopes.shape} pixels, up to {slopes.max():.1f} degrees")
