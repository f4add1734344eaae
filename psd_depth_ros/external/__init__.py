"""Networks of other people: ONNX, TensorFlow Lite, Hugging Face `transformers`."""
