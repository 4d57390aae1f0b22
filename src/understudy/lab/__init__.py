"""From recordings to a listener that ships: data, nets, training, figures, ONNX files."""
