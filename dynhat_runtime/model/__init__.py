"""The elastic Transformer: weights once, architectures as views of them. Knows no text and no devices."""
