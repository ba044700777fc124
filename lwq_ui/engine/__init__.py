"""Everything that computes with weights: torch and transformers, never gradio."""
