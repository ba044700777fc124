"""The page: gradio, and no mathematics."""
