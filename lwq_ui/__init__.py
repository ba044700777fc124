"""LWQ Explorer: variable layerwise quantization of language models (Dumitru et al., 2025)."""

__version__ = "0.1.0"
