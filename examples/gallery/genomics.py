"""Genomics: index a reference in much memory, align the reads of each sample, and compare the variants."""

import random

import handoff_dask as handoff
from handoff_dask import DAG, Function

K, READ = 16, 60  # lengths of a seed and of a read
SAMPLES = {"mother": [500, 1500], "father": [800, 1500], "child": [500, 800, 1500]}  # positions that differ
reference = "".join(random.Random(0).choices("ACGT", k=2000))
dag = DAG("variants")


@dag.function(cost={"cpu": 1, "memory": 6000})
def index():
    return {reference[n : n + K]: n for n in range(len(reference) - K + 1)}


def sequence(positions):
    genome = "".join("TGCA"["ACGT".index(c)] if n in positions else c for n, c in enumerate(reference))
    return [genome[n : n + READ] for n in range(0, len(genome) - READ, 7)]


def variants(index, reads):
    starts = [(index.get(read[:K]), read) for read in reads]
    pairs = [(start + n, c) for start, read in starts if start is not None for n, c in enumerate(read)]
    return {position for position, c in pairs if c != reference[position]}


for name, positions in SAMPLES.items():
    dag.add_function(Function(("reads", name), sequence, extra_args=[positions], cost={"memory": 500}))
    dag.add_function(Function(name, variants, ["index", ("reads", name)], cost={"cpu": 2, "memory": 3000}))

nodes = {"thin": {"cpu": 2, "memory": 4096}, "fat": {"cpu": 4, "memory": 16384}}
with handoff.local_cluster(nodes, processes=False) as cluster:
    result = handoff.execute(dag, cluster, keep=list(SAMPLES))
print("shared:", sorted(set.intersection(*result.results.values())), "child:", sorted(result["child"]))
