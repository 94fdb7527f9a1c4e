"""From text to text: pieces, beams, sentences. Knows models and tokenizers, no queues and no HTTP."""
