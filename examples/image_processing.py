"""Process pictures in five stages on three unequal nodes.

Four pictures that come with scikit-image are loaded, resized, blurred, converted to grayscale, and reduced to
their edges: a chain of five functions per picture, with different costs. A last function combines all stages
in a collage, which is written to a PNG file::

    pip install "handoff-dask[examples]"
    python image_processing.py collage.png

The table printed at the end shows where and when each function ran. ``gpu`` is just a resource name here:
numpy finds the edges without a GPU, but only on the node that offers one.
"""

import sys
from importlib.resources import files

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image, ImageDraw, ImageFont, ImageOps

import handoff_dask as handoff
from handoff_dask import DAG, Function

PICTURES = {
    "astronaut": "astronaut.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "rocket": "rocket.jpg",
}
STAGES = ("resize", "blur", "grayscale", "edges")  # the columns of the collage

NODES = {
    "small": {"cpu": 1, "memory": 2048},
    "large": {"cpu": 4, "memory": 8192},
    "gpu": {"cpu": 2, "memory": 4096, "gpu": 1},
}
COSTS = {
    "load": {"cpu": 1, "memory": 256},
    "resize": {"cpu": 1, "memory": 512},
    "blur": {"cpu": 2, "memory": 3072},
    "grayscale": {"cpu": 1, "memory": 512},
    "edges": {"cpu": 1, "memory": 2048, "gpu": 1},
    "collage": {"cpu": 1, "memory": 1024},
}

# Layout of the collage, in pixels: tiles and gaps, with column names above and picture names on the left.
TILE, GAP, HEADER, MARGIN = 256, 12, 48, 112
BACKGROUND, TEXT = (24, 26, 32), (226, 230, 238)


# The stages. Pictures are float arrays from 0 to 1 of shape (height, width, 3), or (height, width) if gray.


def load(filename):
    with Image.open(files("skimage") / "data" / filename) as image:
        return np.asarray(image.convert("RGB")) / 255


def resize(picture, size):
    """Crop the largest centred square and scale it to ``size`` pixels a side."""
    image = Image.fromarray(np.uint8(picture * 255 + 0.5))
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)) / 255


def blur(picture, sigma):
    """Blur with a Gaussian, first down the columns, then along the rows."""
    radius = round(4 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        width = [(radius, radius) if a == axis else (0, 0) for a in range(picture.ndim)]
        picture = sliding_window_view(np.pad(picture, width, mode="edge"), kernel.size, axis) @ kernel
    return picture


def grayscale(picture):
    """Compute the luma of ITU-R BT.601."""
    return picture @ [0.299, 0.587, 0.114]


def edges(gray):
    """Compute the magnitude of the Sobel gradient, scaled to a maximum of 1."""
    padded = np.pad(gray, 1, mode="edge")
    down = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    along = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    strength = np.hypot(down[:, 2:] - down[:, :-2], along[2:] - along[:-2])
    return strength / strength.max()


def corner(row, column):
    """Return the x and y of a tile's upper left pixel in the collage."""
    return MARGIN + column * (TILE + GAP), HEADER + row * (TILE + GAP)


def collage(tiles, names, stages):
    """Draw a row for each picture and a column for each stage; ``tiles`` are in row-major order."""
    sheet = Image.new("RGB", corner(len(names), len(stages)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=18)
    for column, stage in enumerate(stages):
        x, y = corner(0, column)
        draw.text((x + TILE / 2, y / 2), stage, TEXT, font, anchor="mm")
    for row, name in enumerate(names):
        x, y = corner(row, 0)
        draw.text((x - GAP, y + TILE / 2), name, TEXT, font, anchor="rm")
    for number, tile in enumerate(tiles):
        image = Image.fromarray(np.uint8(tile * 255 + 0.5))
        sheet.paste(image.convert("RGB"), corner(*divmod(number, len(stages))))
    return np.asarray(sheet)


# The DAG.


def build_dag() -> DAG:
    """Build the DAG, with pairs as ids, such as ``("blur", "coffee")``: any hashable value can be an id."""
    dag = DAG("image_processing")

    def add(stage, name, code, args=(), extra_args=()):
        dag.add_function(
            Function(id=(stage, name), code=code, args=args, extra_args=extra_args, cost=COSTS[stage])
        )

    for name, filename in PICTURES.items():
        add("load", name, load, extra_args=[filename])
        add("resize", name, resize, [("load", name)], [TILE])
        add("blur", name, blur, [("resize", name)], [2.0])
        add("grayscale", name, grayscale, [("blur", name)])
        add("edges", name, edges, [("grayscale", name)])

    return dag.add_function(
        Function(
            id="collage",
            code=collage,
            args=[(stage, name) for name in PICTURES for stage in STAGES],
            argument_inclusion="as_list",  # collage([tile, tile, ...], names, stages)
            extra_args=[list(PICTURES), STAGES],
            cost=COSTS["collage"],
        )
    )


def print_allocations(result):
    """Print a line for each function, in the order of their start times."""
    rows = []
    for id, record in result.records.items():
        last = record.attempts[-1]
        function = id if isinstance(id, str) else " ".join(id)
        rows.append((last.started, function, record.node, last.stopped - last.started, len(record.attempts)))
    rows.sort()
    first = rows[0][0]
    print(f"{'function':<20} {'node':<8} {'started':>9} {'seconds':>9} {'attempts':>9}")
    for started, function, node, seconds, attempts in rows:
        print(f"{function:<20} {node:<8} {started - first:>9.4f} {seconds:>9.4f} {attempts:>9}")


def main(path: str = "collage.png") -> handoff.Result:
    """Run the DAG on three nodes, print the allocations, write the collage to ``path``."""
    with handoff.local_cluster(NODES) as cluster:
        result = handoff.execute(build_dag(), cluster)
    print_allocations(result)
    image = Image.fromarray(result.results["collage"])
    image.save(path)
    print(f"Wrote {path}: {image.width} x {image.height} pixels.")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
