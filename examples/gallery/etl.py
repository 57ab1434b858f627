"""ETL: clean the exports of three shops concurrently; write them to one database, one writer at a time."""

import random
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import handoff_dask as handoff
from handoff_dask import DAG, Function

folder = Path(tempfile.mkdtemp())
for shop in ("north", "south", "west"):  # the data: one amount in ten is missing
    lines = ["" if n % 10 == 0 else str(random.Random(n).randint(1, 99)) for n in range(200)]
    (folder / f"{shop}.csv").write_text("\n".join(lines))


def clean(path):
    return [int(line) for line in path.read_text().splitlines() if line]


def write(amounts, shop):
    with closing(sqlite3.connect(folder / "sales.db")) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS sales (shop TEXT, amount INTEGER)")
        database.execute("DELETE FROM sales WHERE shop = ?", [shop])  # a retry writes no row twice
        database.executemany("INSERT INTO sales VALUES (?, ?)", [(shop, amount) for amount in amounts])
    return len(amounts)


dag = DAG("etl")
for path in sorted(folder.glob("*.csv")):
    dag.add_function(Function(("clean", path.stem), clean, extra_args=[path], cost={"cpu": 1}))
    dag.add_function(Function(path.stem, write, [("clean", path.stem)], [path.stem], cost={"database": 1}))

nodes = {"small": {"cpu": 1, "memory": 1024}, "large": {"cpu": 4, "memory": 8192}}
with handoff.local_cluster(nodes, processes=False) as cluster:
    result = handoff.execute(dag, cluster, limits={"database": 1}, keep="sinks")
print("rows written:", result.results)
