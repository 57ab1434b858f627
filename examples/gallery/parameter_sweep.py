"""Parameter sweep: one function per setting, as many at once as fit, and only the best setting is kept."""

import numpy as np

import handoff_dask as handoff
from handoff_dask import DAG, Function

PENALTIES = [10.0**n for n in range(-4, 5)]
dag = DAG("sweep")


@dag.function(cost={"cpu": 1})
def data():
    random = np.random.default_rng(0)
    x = random.normal(size=(120, 40))
    return x, x[:, :5].sum(axis=1) + random.normal(size=120)


def score(data, penalty):
    """Fit a ridge regression to one half of the data, and return its error on the other half."""
    (x, y), half = data, len(data[0]) // 2
    weights = np.linalg.solve(x[:half].T @ x[:half] + penalty * np.eye(x.shape[1]), x[:half].T @ y[:half])
    return float(np.mean((x[half:] @ weights - y[half:]) ** 2)), penalty


for penalty in PENALTIES:
    dag.add_function(Function(("score", penalty), score, ["data"], extra_args=[penalty], cost={"cpu": 2}))


@dag.function(args=[("score", p) for p in PENALTIES], argument_inclusion="as_list")
def best(scores):
    return min(scores)


nodes = {"small": {"cpu": 2, "memory": 2048}, "large": {"cpu": 4, "memory": 8192}}
with handoff.local_cluster(nodes, processes=False) as cluster:
    result = handoff.execute(dag, cluster, keep=["best"])
print("best penalty {1:g}, error {0:.2f}".format(*result["best"]))
