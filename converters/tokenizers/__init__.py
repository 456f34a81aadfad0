"""Vocabularies between tokenizer.json, SentencePiece and GGUF, all through one `Vocabulary`."""
