"""The LLaMA family as pure functions of their parameters: architecture, LoRA and layout."""
