"""Checkpoints in and adapters out: Hugging Face, PEFT and GGUF files."""
