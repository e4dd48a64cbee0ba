"""Models in and out: Hugging Face folders, GGUF, and where a run starts from."""
