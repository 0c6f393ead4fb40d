"""Use a trained model: classify images, and write predictions as Hafnia reads them."""
