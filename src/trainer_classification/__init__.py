"""Train image classifiers on Hafnia datasets: prepare once, plan each epoch, keep the GPU busy."""
