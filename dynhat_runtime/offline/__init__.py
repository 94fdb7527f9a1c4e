"""Design-time tools: data, training, measuring, evaluation. The daemon runs without them."""
