"""From a bundle or a checkpoint to a compiled engine with its proof: what ``build_engine.py`` runs."""
