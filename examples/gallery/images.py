"""Images: count bright objects in pictures of unequal size; costs follow from the size of the picture."""

from importlib.resources import files

import numpy as np
from PIL import Image
from skimage import filters, measure

import handoff_dask as handoff
from handoff_dask import DAG, Function

PICTURES = [files("skimage") / "data" / name for name in ("coins.png", "moon.png", "hubble_deep_field.jpg")]


def load(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L")) / 255


def count(gray):
    smooth = filters.gaussian(gray, sigma=2)
    return int(measure.label(smooth > filters.threshold_otsu(smooth)).max())


dag = DAG("objects")
for path in PICTURES:
    with Image.open(path) as picture:
        megabytes = picture.width * picture.height * 8 / 2**20
    dag.add_function(Function(f"load {path.name}", load, extra_args=[path], cost={"memory": megabytes}))
    dag.add_function(
        Function(path.name, count, [f"load {path.name}"], cost={"cpu": 1, "memory": 4 * megabytes})
    )

nodes = {"small": {"cpu": 2, "memory": 16}, "large": {"cpu": 1, "memory": 64}}
with handoff.local_cluster(nodes, processes=False) as cluster:
    result = handoff.execute(dag, cluster, keep="sinks")
for name, objects in result.results.items():
    print(f"{name}: {objects} objects, counted on {result.allocations[name]}")
