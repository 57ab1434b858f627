"""Training: prepare data on a CPU node, train on the node with a GPU, and evaluate wherever there is room."""

from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import handoff_dask as handoff
from handoff_dask import DAG

dag = DAG("digits")


@dag.function(cost={"cpu": 1, "memory": 500})
def digits():
    return load_digits(return_X_y=True)


@dag.function(cost={"cpu": 2, "memory": 2000})
def prepared(digits):
    images, labels = digits
    return train_test_split(images / 16, labels, test_size=0.25, random_state=0)


@dag.function(cost={"cpu": 1, "gpu": 1}, max_retries=1)
def model(prepared):
    print("training on GPU", handoff.current().devices["gpu"][0], "of", handoff.current().node)
    return LogisticRegression(max_iter=500).fit(prepared[0], prepared[2])


@dag.function(cost={"cpu": 1})
def accuracy(model, prepared):
    return model.score(prepared[1], prepared[3])


nodes = {"office": {"cpu": 4, "memory": 8192}, "lab": {"cpu": 2, "memory": 4096, "gpu": 1}}
with handoff.local_cluster(nodes, processes=False) as cluster:
    result = handoff.execute(dag, cluster, keep="sinks")
print(f"accuracy {result['accuracy']:.2f}, trained on {result.allocations['model']}")
