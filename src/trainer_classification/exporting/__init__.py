"""Write a trained model for other runtimes as one graph: images of any size in, probabilities out."""
